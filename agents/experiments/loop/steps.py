"""Run the steps of a loop (`.loop`) that the agent is in. A step fills a folder, and returns its metrics."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_envs.datasets.messages import answer_to, kept_prompt
from rlhf_envs.files import replace_json
from rlhf_envs.preferences.queries import select_pairs
from rlhf_envs.rewards import get_reward
from rlhf_envs.rewards.constraints import find_constraints
from rlhf_envs.rewards.ensemble import RewardEnsemble, load_reward

from ...algorithms.common.offline import OfflinePreferences
from ...core.episodes import open_batch
from ...core.random_state import get_generators, set_generators
from ...evaluation.evaluate import Evaluation, evaluate
from ...evaluation.generate import generate_in
from ...evaluation.source import Source
from ...saving import bundle as bundles
from ...saving.checkpoints import Checkpoints
from ...saving.folders import AGENT, CHECKPOINTS, MODEL
from ...saving.loading import load
from ...training.building import build_agent, build_callbacks, build_environment, load_agent
from ...training.callbacks import PeriodicEvaluation
from ...training.checkpoint_callback import CheckpointCallback
from ...training.logger import open_logger
from ...training.progress import ProgressDisplay, planned_tokens
from ...training.run import RunInterrupted
from ...training.run import save_model as write_model
from .feedback import ask, fit, judged_pairs
from .state import PAIRS, Loop, Metrics

__all__ = ["ROUND", "START", "begin", "generate", "learn", "measure", "save_model"]

UNASKED = 32  # pairs of a round in which nobody is asked: they tell how what the first policy wrote is scored
SPARE = 1.1  # pairs drawn for each that is wanted, because some have two equal completions


def begin(loop: Loop, number: int, into: Path) -> Metrics:
    """Save the agent before any training."""
    agent = build_agent(loop.config)
    bundles.save(agent, into / AGENT)
    agent.get_env().close()
    return {"tokens": 0}


def generate(loop: Loop, number: int, into: Path) -> Metrics:
    """Complete training prompts twice each, and keep the pairs that differ. Raise ValueError if all are equal."""
    config = loop.config
    options = {"split": "train", **config.environment_kwargs(), "reward": None, "reward_fn": no_reward}
    batch = open_batch(config.env_id, 1, **options)
    policy = Source.of(loop.agent(number - 1)).build_policy(batch)
    wanted = config.labels or UNASKED
    asks_actively = config.labels > 0 and config.query != "random" and number > 1
    n = int(SPARE * wanted * (config.pool if asks_actively else 1)) + 1
    order = np.random.default_rng(config.seed).permutation(len(batch.rows))
    prompts = order.take(range((number - 1) * n, number * n), mode="wrap")  # others in each round, while there are any
    done = generate_in(batch, policy, np.repeat(prompts, 2), seed=1_000_003 * (config.seed + 1) + number)
    pairs = [
        {"prompt": one.prompt, "completions": [one.completion, other.completion]}
        | ({} if one.messages is None else {"messages": one.messages})
        | ({"turns": [one.turns, other.turns]} if one.turns or other.turns else {})
        for one, other in zip(done[::2], done[1::2], strict=True)
        if one.completion != other.completion
    ]
    if not pairs:
        raise ValueError(f"round {number}: all {n} pairs of completions are equal, there is nothing to choose from")
    chosen = _choose(loop, number, pairs) if asks_actively else pairs[:wanted]
    replace_json(into / PAIRS, chosen)
    return {"asked": min(len(chosen), config.labels), "drawn": n, "equal": n - len(pairs)}


def _choose(loop: Loop, number: int, pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the pairs that the last round's reward models are least sure of, or differ most about."""
    config, reward = loop.config, load_reward(loop.proxy(number - 1))
    prompts = [kept_prompt(pair["prompt"], pair) for pair in pairs]

    def score(side: int) -> np.ndarray:
        """Return the scores of every member, (members, pairs). Differences are log-odds."""
        answers = [answer_to(prompt, pair["completions"][side]) for prompt, pair in zip(prompts, pairs, strict=True)]
        if isinstance(reward, RewardEnsemble):
            return reward.member_scores(*reward.as_texts(prompts, answers)) / reward.gain
        return reward(prompts, answers)[None] / reward.gain

    scores = np.stack([score(0), score(1)], axis=-1)  # (members, pairs, 2)
    seed = 1000 * config.seed + number
    return [pairs[i] for i in select_pairs(config.query, min(config.labels, len(pairs)), scores=scores, seed=seed)]


def no_reward(prompts: Sequence[str], completions: Sequence[str], **columns: object) -> list[float]:
    """Return zeros: the reward before anybody is asked."""
    return [0.0] * len(completions)


def learn(loop: Loop, number: int, into: Path) -> Metrics:
    """Go on with RL against this round's reward model, from the round before or from a checkpoint in this one.

    `dpo` and `kto` learn from the pairs judged so far instead, and still against the model of before the first round.

    Raises:
        RunInterrupted: SIGTERM or SIGINT; a checkpoint is saved.
    """
    config, reward, place = loop.config, loop.reward(loop.proxy(number)), loop.place(number, "learn").parent
    bundle = Checkpoints(place / CHECKPOINTS).latest() or loop.agent(number - 1)
    agent = load_agent(config, bundle, reward)  # the prices of limits go on
    if isinstance(agent, OfflinePreferences):
        agent.set_pairs(judged_pairs(loop, number, turns=True))
    generators = get_generators()  # as they were when the bundle was saved
    callbacks = build_callbacks(config, agent, place)
    guard = next(callback for callback in callbacks if isinstance(callback, CheckpointCallback))
    for callback in callbacks:
        if isinstance(callback, PeriodicEvaluation):
            callback.eval_env.set_attr("reward_fn", loop.reward(loop.proxy(number)))  # without prices
    guard.restore(bundle)
    agent.set_logger(open_logger(loop.folder, config.verbose > 0, agent.num_timesteps, loop.trackers))
    assert config.n_timesteps is not None
    end = loop.read(number - 1, "learn")["tokens"] + config.n_timesteps
    left = max(end - agent.num_timesteps, 0)
    set_generators(generators)
    planned, rollout = planned_tokens(agent, left)
    if planned != left:
        rounded = f"{left:,} rounded up to rollouts of {rollout:,}"
        loop.say(f"round {number}: learns from {planned:,} tokens ({rounded})")
    display = ProgressDisplay()
    try:
        watched = display.watch(callbacks) if config.progress else callbacks
        with guard.stopping():
            agent.learn(left, watched, log_interval=1, reset_num_timesteps=False)
        if guard.interrupted is not None:  # it has saved a checkpoint, also after the last update
            raise RunInterrupted(
                f"{guard.interrupted.name}: the run is saved in {guard.saved}; go on with: rlhf loop --resume "
                f"{shlex.quote(str(loop.folder))}",
                guard.interrupted,
            )
        bundles.save(agent, into / AGENT, guard.state())
    finally:
        display.close()
        guard.close()
        agent.logger.close()
        agent.get_env().close()
    prices = {one.cost_name: float(one.multiplier) for one in find_constraints(reward)}
    return {"tokens": int(agent.num_timesteps), **({"prices": prices} if prices else {})}


def measure(loop: Loop, number: int, into: Path) -> Metrics:
    """Complete held-out prompts, the same ones every round, and measure them with judges and this round's reward.

    With aspects the agent of the round before is measured again too, by the same reward models.
    """
    reward = loop.reward(loop.proxy(number)) if number else no_reward
    evaluation = _evaluate(loop, number, reward, loop.judges)
    report = evaluation.to_dict(n_samples=16)
    if not number:  # there is no reward model yet
        report["estimates"].pop("reward")
    elif loop.aspects:
        anew = loop.reward(loop.proxy(number))  # it has seen no completions, as in the evaluation above
        before = _evaluate(loop, number - 1, anew, {}).component_estimates()
        after = evaluation.component_estimates()
        report["aspects"] = {
            name: {"before": before[name].to_dict(), "after": after[name].to_dict()} for name in loop.aspects
        }
    del report["source"], report["seconds"]
    return report


def _evaluate(loop: Loop, number: int, reward: Callable[..., Any], judges: Mapping[str, str]) -> Evaluation:
    """Return the evaluation of a round's agent on held-out prompts, by a reward."""
    config, kwargs = loop.config, {**loop.config.held_out_kwargs(), "reward": None, "reward_fn": reward}
    n, split = config.test_episodes, config.test_split
    found = {name: get_reward(judge) for name, judge in judges.items()}
    return evaluate(loop.agent(number), config.env_id, n, split, found, seed=config.seed, env_kwargs=kwargs)


def save_model(loop: Loop) -> None:
    """Write the policy of the last round as a Hugging Face folder, as `rlhf train` does."""
    config = loop.config
    env = build_environment(config)
    if loop.aspects:  # the bundle has the prices of their limits
        env.set_attr("reward_fn", loop.reward(loop.proxy(config.rounds)))
    agent = load(loop.agent(config.rounds), env, algorithm=config.algo, device=config.device)
    write_model(agent, loop.folder / MODEL)
    agent.get_env().close()


Step = Callable[[Loop, int, Path], Metrics]
START: dict[str, Step] = {"learn": begin, "evaluate": measure}
ROUND: dict[str, Step] = {"generate": generate, "ask": ask, "fit": fit, "learn": learn, "evaluate": measure}
