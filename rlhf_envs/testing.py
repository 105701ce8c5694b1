"""Check a text environment of your own. Our tests run the same checks over every registered id."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from rlhf_envs.datasets import SPLITS
from rlhf_envs.tasks.base import Task, find_rooms
from rlhf_envs.tasks.checking import check_task

__all__ = ["check_task", "check_text_env"]

INFO_TYPES: dict[str, Any] = {"prompt": str | list, "completion": str | list}  # a text, or messages
INFO_TYPES |= {"finish_reason": str, "reward_components": dict, "index": int}
REASONS = ("eos", "length", "turns", "task")  # why an episode ends whose agent has just ended a turn
EOS_SHARE = 0.15  # of the actions in sampled episodes


def check_text_env(env: str | EnvSpec | gym.Env[Any, Any]) -> None:
    """Check that an environment keeps the contracts of a text environment.

    It plays a few dozen short episodes and checks

    - that the task reads rows which are handed back to it, has metrics for an empty completion, and answers every split
      with rows or a ValueError, as evaluations need it;
    - the spaces, and that contexts are right-padded and grow only by appending;
    - that EOS and the length limit end an episode, by `terminated` and never by `truncated`;
    - the reward: finite at the end and where a turn ends, 0 elsewhere; and the keys of the last `info`;
    - the errors for bad actions and indices, and equal episodes under equal seeds;
    - Gymnasium's own `check_env`, without a warning, and pickling, if the reward can be pickled.

    With a `spec` it also checks the spec's way through JSON, the render modes, and that the batched environment does
    what single ones do.

    Args:
        env: an id, an `EnvSpec`, or an environment. One with a spec (from `gymnasium.make`) gets more checks. It is
            stepped and reset, but not closed.

    Raises:
        AssertionError: a contract is broken; the message says which one and how.
    """
    made: gym.Env[Any, Any] = gym.make(env) if isinstance(env, str | EnvSpec) else env
    checks: list[Callable[[Any], None]] = [
        _check_rows, _check_spaces, _check_episodes, _check_eos, _check_errors, _check_seeding,
        _check_gymnasium, _check_pickle,
    ]  # fmt: skip
    if made.unwrapped.spec is not None:
        checks += [_check_spec, _check_render, _check_batch]
    for check in checks:
        check(made.unwrapped)


def _check_rows(env: Any) -> None:
    """Check the task's hooks for data as evaluations and comparisons call them."""
    task = getattr(env, "task", None)
    if not isinstance(task, Task):
        return
    rows = [dict(row) for row in env.rows]
    try:
        again = task.rows("train", [dict(row) for row in rows])
    except Exception as error:
        raise AssertionError(
            f"task {task.name!r}: rows(split, data) fails on rows that it made, {type(error).__name__}: {error}. "
            "`data` is None or a list of dicts (files are read before): give [dict(row) for row in data] then"
        ) from error
    prompts = [row["prompt"] for row in rows], [row.get("prompt") for row in again]
    assert prompts[0] == prompts[1], f"task {task.name!r}: rows(split, data) must return the rows of `data`, if given"
    for split in SPLITS:
        try:
            env.episodes.rows_of(split)
        except ValueError:  # the documented answer to a split that the data does not have
            continue
        except Exception as error:
            what = f"task {task.name!r}: rows({split!r}, None)"
            raise AssertionError(
                f"{what} must return rows or raise a ValueError, not {type(error).__name__}: {error}"
            ) from error
    try:
        task.metric_names(rows)
    except Exception as error:
        raise AssertionError(
            f"task {task.name!r}: metrics of an empty completion fail, {type(error).__name__}: {error}"
        ) from error


def _check_spaces(env: Any) -> None:
    """Check both spaces against the tokenizer and the environment's lengths."""
    space, actions = env.observation_space, env.action_space
    assert isinstance(actions, gym.spaces.Discrete) and actions.start == 0, (
        f"the action space must be Discrete(vocab_size) from 0, it is {actions}"
    )
    assert isinstance(space, gym.spaces.Dict) and {"input_ids", "attention_mask"} <= space.keys(), (
        f"the observation space must be a Dict with input_ids and attention_mask, it is {space}"
    )
    for name in ("tokenizer", "max_prompt_tokens", "max_new_tokens"):
        assert hasattr(env, name), f"the environment needs the attribute {name!r}"
    shape = (env.max_prompt_tokens + env.max_new_tokens,)
    for key, dtype, high in (("input_ids", np.int64, actions.n - 1), ("attention_mask", np.int8, 1)):
        expected = gym.spaces.Box(0, int(high), shape, dtype)
        assert space[key] == expected, f"the space of {key!r} must be {expected}, it is {space[key]}"
    assert len(env.tokenizer) == actions.n, (
        f"the action space has {actions.n} tokens and the tokenizer {len(env.tokenizer)}: they must be the same"
    )


def _check_gymnasium(env: Any) -> None:
    """Run Gymnasium's own checker, where a warning counts as an error."""
    env.action_space.seed(0)  # check_env samples actions
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            check_env(env, skip_render_check=True)
        except AssertionError:
            raise
        except Exception as error:  # of whatever type: the environment's fault, reported as such
            raise AssertionError(f"gymnasium's check_env: {type(error).__name__}: {error}") from error


def _check_episodes(env: Any) -> None:
    """Play episodes without EOS, to the length limit, and episodes with an occasional EOS."""
    for seed, eos_share in ((0, 0.0), (1, 0.0), (2, EOS_SHARE), (3, EOS_SHARE), (4, EOS_SHARE)):
        rng = np.random.default_rng(seed)
        info = _play(env, seed, lambda rng=rng, share=eos_share: _sample(env, rng, share))  # type: ignore[misc]
        if eos_share == 0:
            assert info["finish_reason"] == "length", (
                f"an episode without EOS must end with finish_reason 'length', it was {info['finish_reason']!r}"
            )
        if hasattr(env, "episodes"):
            try:
                env.episodes.get_state()
            except ValueError as error:
                raise AssertionError(f"the environment cannot be saved: {error}") from error


def _check_eos(env: Any) -> None:
    """Check that EOS ends an episode, or gets a reply."""
    eos = env.tokenizer.eos_token_id
    if eos is None:
        return
    info = _play(env, 0, lambda: eos)
    reason, completion = info["finish_reason"], info["completion"]
    assert reason in REASONS or completion, f"an EOS must end the episode with finish_reason 'eos', it was {reason!r}"


def _play(env: Any, seed: int, act: Callable[[], int]) -> dict[str, Any]:
    """Play one episode, check every step against the contract, and return the last info."""
    obs, info = env.reset(seed=seed)
    context = _context(env, obs, "reset")
    prompt_length = len(context)
    assert 1 <= prompt_length <= env.max_prompt_tokens, (
        f"a prompt has {prompt_length} tokens: 1 to max_prompt_tokens={env.max_prompt_tokens} are allowed"
    )
    ends, room = _ends(env), _room(env, info)
    while True:
        action, earlier = act(), obs
        obs, reward, terminated, truncated, info = env.step(action)
        assert not truncated, (
            "text episodes end with terminated=True, never truncated: SB3 would add a value to the reward"
        )
        before, context = context, _context(env, obs, "step")
        # Gymnasium 1.2's checker does not look for this, later ones do.
        assert not any(np.shares_memory(earlier[key], obs[key]) for key in ("input_ids", "attention_mask")), (
            "observations may not share their arrays: a step would change the observation before it"
        )
        assert context[: len(before) + 1] == [*before, action], (
            f"contexts may only grow by appending: after action {action} the context {before} became {context}"
        )
        replied = len(context) > len(before) + 1
        assert not replied or (action in ends and not terminated), (
            "tokens that are not the agent's may only follow an EOS that goes on: after action "
            f"{action} the context {before} became {context}"
        )
        new = len(context) - prompt_length
        if terminated:
            _check_last(env, reward, info, action in ends, new, room)
            return dict(info)
        assert replied or reward == 0, f"rewards fall at the end of a turn or of an episode, step {new} gave {reward}"
        assert np.isfinite(reward), f"the reward must be a finite float, step {new} gave {reward}"
        assert "finish_reason" not in info, "info has 'finish_reason' before the episode's end"
        assert action not in ends or replied, "an EOS without a reply must end the episode with terminated=True"
        assert new < room, f"the episode goes on after max_new_tokens={room} new tokens"


def _context(env: Any, obs: Mapping[str, np.ndarray], source: str) -> list[int]:
    """Return the tokens of an observation, after checking its space and its padding."""
    assert obs in env.observation_space, f"the observation of {source} is not in the observation space: {obs}"
    length = int(obs["attention_mask"].sum())
    assert obs["attention_mask"][:length].all(), (
        f"contexts must be right-padded: the attention_mask of {source} is {obs['attention_mask'].tolist()}"
    )
    return obs["input_ids"][:length].tolist()


def _room(env: Any, info: Mapping[str, Any]) -> int:
    """Return how many tokens may follow the prompt, in a mixture by the task of the row that `info` of reset names."""
    if isinstance(task := getattr(env, "task", None), Task) and task.subtasks:
        return find_rooms(task, [env.rows[info["index"]]], env.max_new_tokens)[0]
    return int(env.max_new_tokens)


def _check_last(env: Any, reward: Any, info: Mapping[str, Any], at_end: bool, new: int, room: int) -> None:
    """Check the last step of an episode of `new` tokens of `room`, whose last one was an EOS or not (`at_end`)."""
    assert isinstance(reward, float) and np.isfinite(reward), f"the reward must be a finite float, it is {reward!r}"
    for key, kind in INFO_TYPES.items():
        assert isinstance(info.get(key), kind), (
            f"the last info needs {key!r} of type {getattr(kind, '__name__', kind)}, got {info.get(key)!r}"
        )
    answered = getattr(getattr(env, "task", None), "has_replies", False)
    reasons = (REASONS if answered else ("eos",)) if at_end else ("length",)
    assert info["finish_reason"] in reasons, (
        f"finish_reason must be {' or '.join(map(repr, reasons))}, it is {info['finish_reason']!r}"
    )
    assert at_end or new >= room, f"the episode ended by its length after {new} of max_new_tokens={room} tokens"
    for name, value in info["reward_components"].items():
        assert isinstance(name, str) and isinstance(value, float) and np.isfinite(value), (
            f"reward_components must map names to finite floats, it has {name!r}: {value!r}"
        )


def _check_errors(env: Any) -> None:
    """Check the errors for actions outside the space and for rows that the data does not have."""
    env.reset(seed=0)
    for action in (-1, int(env.action_space.n)):
        _must_raise(lambda action=action: env.step(action), f"step({action}), outside {env.action_space},")  # type: ignore[misc]
    obs, info = env.reset(seed=0, options={"index": 0})
    again, _ = env.reset(seed=1, options={"index": 0})
    assert info.get("index") == 0 and _same(obs, again), "reset(options={'index': 0}) must take the prompt of row 0"
    _must_raise(lambda: env.reset(options={"index": 10**9}), "reset with an index beyond the data")


def _check_seeding(env: Any) -> None:
    """Check that equal seeds give equal episodes, and that other seeds draw other prompts."""
    first, again = _rollout(env, 7, 12), _rollout(env, 7, 12)
    assert _same(first, again), "two rollouts with the same seed and actions differ"
    if len(getattr(env, "rows", [])) > 1:
        drawn = [env.reset(seed=seed)[0] for seed in range(30)]
        prompts = {(str(_context(env, obs, "reset")), *(obs[key].tobytes() for key in sorted(obs))) for obs in drawn}
        assert len(prompts) > 1, "30 seeds all drew the same prompt: draw it with self.np_random"


def _check_pickle(env: Any) -> None:
    """Check that a pickled and loaded environment behaves the same, if its reward can be pickled."""
    try:
        pickle.dumps(getattr(env, "reward_fn", None))
    except Exception:  # a local function, an open connection: then the environment need not be picklable either
        return
    try:
        copy = pickle.loads(pickle.dumps(env))
    except Exception as error:
        raise AssertionError(f"the environment cannot be pickled, though its reward can: {error}") from error
    assert _same(_rollout(env, 3, 6), _rollout(copy, 3, 6)), "a pickled and loaded environment behaves differently"


def _check_spec(env: Any) -> None:
    """Check that an environment made from its spec in JSON behaves the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            text = env.spec.to_json()
        except Exception as error:
            if "reward_fn" in env.spec.kwargs:  # the one argument that is an object
                return
            raise AssertionError(f"the spec does not go into JSON: {error}") from error
    copy = gym.make(EnvSpec.from_json(text))
    assert _same(_rollout(env, 5, 6), _rollout(copy, 5, 6)), (
        "the environment made from its spec in JSON behaves differently"
    )


def _check_render(env: Any) -> None:
    """Check what each render mode prints or returns."""
    modes = env.metadata["render_modes"]
    assert {"human", "ansi", "rgb_array"} <= set(modes), (
        f"render_modes must have human, ansi and rgb_array, got {', '.join(modes)}"
    )
    for mode in ("human", "ansi", "rgb_array"):
        made = gym.make(env.spec, render_mode=mode)
        printed = StringIO()
        with redirect_stdout(printed):
            made.reset(seed=0)
            made.step(int(made.action_space.n) - 1)  # type: ignore[attr-defined]
            frame: Any = made.render()
        if mode == "human":
            assert frame is None and printed.getvalue().strip(), (
                "render_mode 'human' must print the text and return None"
            )
        elif mode == "ansi":
            assert isinstance(frame, str) and frame, f"render_mode 'ansi' must return text, got {frame!r}"
        else:
            assert isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.shape[2:] == (3,), (
                "render_mode 'rgb_array' must return a (height, width, 3) uint8 array"
            )
        made.close()


def _check_batch(env: Any) -> None:
    """Check that the batched environment does in every step what single ones do under the same seeds and actions."""
    if env.spec.vector_entry_point is None:
        return
    n = 3
    batch = gym.make_vec(env.spec, num_envs=n, vectorization_mode="vector_entry_point")
    single = gym.make_vec(
        env.spec, num_envs=n, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
    )
    rng = np.random.default_rng(0)
    results: tuple[Any, Any] = (batch.reset(seed=11), single.reset(seed=11))
    for step in range(2 * env.max_new_tokens + 2):
        assert _same(*results), (
            f"step {step}: the batched environment differs from single ones:\n{results[0]}\n{results[1]}"
        )
        actions = np.array([_sample(env, rng, EOS_SHARE) for _ in range(n)])
        results = (batch.step(actions), single.step(actions))
    batch.close()
    single.close()


def _rollout(env: gym.Env[Any, Any], seed: int, steps: int) -> list[Any]:
    """Return all that `reset` and `step` return in a seeded run over several episodes."""
    rng = np.random.default_rng(seed)
    results: list[Any] = [env.reset(seed=seed)]
    for _ in range(steps):
        results.append(env.step(_sample(env, rng, EOS_SHARE)))
        if results[-1][2] or results[-1][3]:
            results.append(env.reset())
    return results


def _sample(env: Any, rng: np.random.Generator, eos_share: float) -> int:
    """Return a random token: an EOS with probability `eos_share`."""
    ends, n = _ends(env), int(env.unwrapped.action_space.n)
    if ends and rng.random() < eos_share:
        return ends[0]
    token = int(rng.integers(n - len(ends)))
    for end in ends:  # which are sorted
        token += token >= end
    return token


def _ends(env: Any) -> list[int]:
    """Return the tokens that end an episode, sorted: an `EpisodeBatch` has several, other environments their EOS."""
    unwrapped = env.unwrapped
    eos = unwrapped.tokenizer.eos_token_id
    return list(getattr(getattr(unwrapped, "episodes", None), "ends", [] if eos is None else [eos]))


def _same(a: Any, b: Any) -> bool:
    """Return whether two results are equal. Numbers may differ by what a reward model rounds in another batch."""
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray) and a.dtype != object:
        return isinstance(b, np.ndarray) and a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-5)
    if isinstance(a, Sequence | np.ndarray) and not isinstance(a, str):
        return type(a) is type(b) and len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return isinstance(b, float) and bool(np.isclose(a, b, rtol=1e-4, atol=1e-5))
    return type(a) is type(b) and bool(a == b)


def _must_raise(call: Callable[[], object], what: str) -> None:
    """Check that a call raises a ValueError."""
    try:
        call()
    except ValueError:
        return
    except Exception as error:
        raise AssertionError(f"{what} must raise a ValueError, not {type(error).__name__}: {error}") from error
    raise AssertionError(f"{what} must raise a ValueError")
