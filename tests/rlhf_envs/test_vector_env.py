from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space

from rlhf_envs.dialogs import Dialog, Reply
from rlhf_envs.tasks import WordTask
from rlhf_envs.text_env import TextGenerationEnv
from rlhf_envs.vector_env import TextGenerationVectorEnv, row_seeds

PAD, EOS, A, B, C, D = range(6)


class Words(WordTask):
    """The reward is the number of words; a user answers the first EOS of prompts that begin with c."""

    name = "words"
    words = ("a", "b", "c", "d")
    prompts = ("a", "b c", "c b", "d")
    max_prompt_tokens = 2
    max_new_tokens = 4

    def replies(self, dialogs: Sequence[Dialog]) -> list[Reply | None]:
        """Rate every turn by its length, and leave it to chance what is said."""
        return [self.answer(dialog) if dialog.row["prompt"].startswith("c") else None for dialog in dialogs]

    def answer(self, dialog: Dialog) -> Reply:
        dialog.state["said"] = dialog.state.get("said", 0) + len(dialog.messages[-1]["content"].split())
        return Reply(str(dialog.rng.choice(["c", "d"])), reward=0.5 * dialog.state["said"], done=dialog.turn > 1)

    def reward(self, max_new_tokens: int) -> Any:
        return count_words


def count_words(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
    return [float(len(completion.split())) for completion in completions]


class Batches:
    """A reward that keeps the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        self.sizes.append(len(prompts))
        return count_words(prompts, completions)


def singles(n: int, **options: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: TextGenerationEnv(Words, **options)] * n, autoreset_mode=AutoresetMode.SAME_STEP)


def plain(value: Any) -> Any:
    """Arrays as nested lists, so that whole results compare with ==."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return plain(value.tolist()) if isinstance(value, np.ndarray) else value


def actions(n: int, steps: int, seed: int = 0) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        yield rng.choice([PAD, EOS, A, B, C, D], size=n, p=[0.1, 0.3, 0.15, 0.15, 0.15, 0.15])


@pytest.mark.parametrize("seed", [0, 4])
def test_it_does_exactly_what_gymnasiums_sync_vector_env_does_with_single_environments(seed: int) -> None:
    batch, sync = TextGenerationVectorEnv(5, Words), singles(5)
    assert plain(batch.reset(seed=seed)) == plain(sync.reset(seed=seed))
    ends = 0
    for action in actions(5, 120, seed):
        ours, theirs = batch.step(action), sync.step(action)
        assert plain(ours) == plain(theirs)
        assert [array.dtype for array in ours[1:4]] == [array.dtype for array in theirs[1:4]]
        ends += int(ours[2].sum())
    assert ends > 100
    assert batch.observation_space == sync.observation_space
    assert batch.single_observation_space == sync.single_observation_space
    assert batch.action_space == sync.action_space
    assert batch.metadata["autoreset_mode"] == sync.metadata["autoreset_mode"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": [3, None, 5]},
        {"options": {"index": 2}},
        {"seed": 1, "options": {"reset_mask": np.array([False, True, True])}},
        {"options": {"reset_mask": np.array([True, False, False]), "index": 3}},
    ],
)
def test_reset_takes_what_gymnasiums_sync_vector_env_takes(arguments: dict[str, Any]) -> None:
    batch, sync = TextGenerationVectorEnv(3, Words), singles(3)
    for env in (batch, sync):
        env.reset(seed=8)
        env.step(np.array([A, B, C]))
    copied = {key: dict(value) if isinstance(value, dict) else value for key, value in arguments.items()}
    assert plain(batch.reset(**arguments)) == plain(sync.reset(**copied))
    for action in actions(3, 20):
        assert plain(batch.step(action)) == plain(sync.step(action))


def test_reset_takes_an_index_a_row() -> None:
    _, infos = TextGenerationVectorEnv(3, Words).reset(options={"index": [2, 0, 3]})
    assert infos["index"].tolist() == [2, 0, 3]
    _, infos = TextGenerationVectorEnv(2, Words).reset(seed=0, options={"index": [3, None]})
    assert infos["index"][0] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": [1, 2]}, "seed has 2 values for 3 environments"),
        ({"options": {"index": [1, 2]}}, r"options\['index'\] has 2 values for 3 environments"),
        ({"options": {"index": [1, 2, 4]}}, "0 to 3, got 4"),
        ({"options": {"reset_mask": [True, True, True]}}, "must be a numpy array of 3 bools"),
        ({"options": {"reset_mask": np.zeros(3, dtype=bool)}}, "at least one True"),
        ({"options": {"mask": 1}}, r"unknown reset options mask"),
    ],
)
def test_bad_arguments_of_reset_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextGenerationVectorEnv(3, Words).reset(**arguments)


def test_all_episodes_that_end_in_a_step_are_scored_in_one_call() -> None:
    reward = Batches()
    env = TextGenerationVectorEnv(4, Words, reward_fn=reward)
    env.reset(options={"index": 0})
    env.step(np.array([A, A, A, A]))
    assert reward.sizes == []
    _, rewards, terminated, truncated, _ = env.step(np.array([EOS, A, EOS, EOS]))
    assert reward.sizes == [3]
    assert rewards.tolist() == [1, 0, 1, 1]
    assert terminated.tolist() == [True, False, True, True]
    assert not truncated.any()


def test_text_is_decoded_only_where_an_episode_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    env = TextGenerationVectorEnv(4, Words, max_new_tokens=50)
    decoded: list[int] = []
    decode = env.tokenizer.batch_decode
    monkeypatch.setattr(env.tokenizer, "batch_decode", lambda ids, **kw: decoded.append(len(ids)) or decode(ids, **kw))
    env.reset(options={"index": 0})
    for _ in range(49):
        env.step(np.full(4, A))
    assert decoded == []
    env.step(np.full(4, A))
    assert decoded == [8, 8]  # four prompts and four contexts, at once; and, since there are replies, the last turns


def test_infos_follow_gymnasiums_conventions() -> None:
    env = TextGenerationVectorEnv(3, Words)
    env.reset(options={"index": [0, 1, 3]})
    env.step(np.array([A, A, A]))
    obs, _, _, _, infos = env.step(np.array([B, EOS, B]))
    assert infos["_final_info"].tolist() == [False, True, False]
    assert infos["final_info"]["completion"][1] == " a"
    assert infos["final_info"]["finish_reason"][1] == "eos"
    assert infos["final_info"]["reward_components"]["count_words"].tolist() == [0, 1, 0]
    final = infos["final_obs"][1]
    assert final["input_ids"][final["attention_mask"] == 1].tolist() == [B, C, A, EOS]
    assert infos["index"][1] == env.episodes.index[1]
    assert obs["attention_mask"][1].sum() == len(env.rows[infos["index"][1]]["prompt"].split())


def test_observations_are_never_shared() -> None:
    env = TextGenerationVectorEnv(2, Words)
    first, _ = env.reset(seed=0)
    kept = {key: value.copy() for key, value in first.items()}
    second = env.step(np.array([A, A]))[0]
    assert all((first[key] == kept[key]).all() for key in kept)
    assert not any(np.shares_memory(first[key], second[key]) for key in first)


@pytest.mark.parametrize("bad", [[A, 6], [-1, A], [A], [[A, A]], [1.0, 2.0]])
def test_a_bad_action_is_named_and_changes_nothing(bad: Any) -> None:
    env = TextGenerationVectorEnv(2, Words)
    before, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(np.array(bad))
    assert plain(env.episodes.observe()) == plain(before)


def test_stepping_before_reset_asks_for_a_reset() -> None:
    with pytest.raises(gym.error.ResetNeeded, match="row 0"):
        TextGenerationVectorEnv(2, Words).step(np.array([A, A]))


def test_rows_have_their_own_generators_and_survive_pickling() -> None:
    env = TextGenerationVectorEnv(3, Words)
    env.reset(seed=10)
    assert env.np_random_seed == (10, 11, 12)
    assert len(env.np_random) == 3
    env.step(np.array([A, B, C]))
    copy = pickle.loads(pickle.dumps(env))
    for action in actions(3, 40):
        assert plain(env.step(action)) == plain(copy.step(action))


def test_neighbouring_seeds_share_no_row_and_a_seed_does_not_depend_on_the_number_of_rows() -> None:
    seeds = [row_seeds(seed, 64) for seed in range(20)]
    assert len({seed for of_run in seeds for seed in of_run}) == 20 * 64
    assert row_seeds(3, 8) == row_seeds(3, 64)[:8]


def test_runs_with_neighbouring_seeds_draw_prompts_like_independent_ones() -> None:
    def drawn(seed: int) -> list[int]:
        rows = [{"prompt": "a"}] * 4000
        env = TextGenerationVectorEnv(64, Words, data=rows, max_new_tokens=1)
        infos = [env.reset(seed=row_seeds(seed, 64))[1]] + [env.step(np.full(64, A))[4] for _ in range(9)]
        return [int(index) for info in infos for index in info["index"]]

    first, second = Counter(drawn(0)), Counter(drawn(1))
    shared = sum((first & second).values()) / first.total()
    assert shared < 0.25, "two independent draws of 640 from 4,000 rows share about 14%; seeds 0 and 1 shared 98%"


def test_render_gives_a_frame_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    env = TextGenerationVectorEnv(2, Words, render_mode="ansi")
    env.reset(options={"index": [0, 1]})
    env.step(np.array([B, D]))
    assert env.render() == ("User: a\nAssistant: b", "User: b c\nAssistant: d")
    human = TextGenerationVectorEnv(2, Words, render_mode="human")
    human.reset(options={"index": [0, 1]})
    assert human.render() is None
    assert capsys.readouterr().out == "User: a\nAssistant: \nUser: b c\nAssistant: \n"
    pictures = TextGenerationVectorEnv(2, Words, render_mode="rgb_array")
    pictures.reset()
    frames = pictures.render()
    assert frames is not None
    assert [frame.shape for frame in frames] == [(360, 640, 3)] * 2
    silent = TextGenerationVectorEnv(2, Words)
    with pytest.warns(UserWarning, match="render_mode"):
        assert silent.render() is None


def test_no_environments_is_an_error() -> None:
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        TextGenerationVectorEnv(0, Words)


def test_spaces_are_batched() -> None:
    env = TextGenerationVectorEnv(7, Words)
    obs, _ = env.reset(seed=0)
    assert env.observation_space == batch_space(env.single_observation_space, 7)
    assert obs in env.observation_space
    assert env.action_space.sample() in env.action_space


def test_groups_of_episodes_share_a_prompt():
    """Every prompt that is drawn is given to `group_size` episodes, in the order in which rows come free."""
    env = gym.make_vec(
        "rlhf/IncreasingNumbers-v0", num_envs=3, vectorization_mode="vector_entry_point", group_size=4, max_new_tokens=4
    )
    _, infos = env.reset(seed=3)
    given = list(infos["index"])
    rng = np.random.default_rng(0)
    for _ in range(60):
        *_, dones, _, infos = env.step(np.where(rng.random(3) < 0.4, 1, 2))  # 1 is EOS
        given += list(infos["index"][dones]) if dones.any() else []
    groups = np.array(given[: len(given) // 4 * 4]).reshape(-1, 4)
    assert len(groups) > 10
    assert (groups == groups[:, :1]).all()
    assert len(set(groups[:, 0])) > 3, "the groups have prompts of their own"
    again = env.reset(seed=3)[1]["index"]
    assert list(again) == given[:3], "a reset begins a new group"


def test_a_group_goes_on_from_a_saved_state():
    def make():
        env = gym.make_vec(
            "rlhf/TokenBandit-v0", num_envs=2, vectorization_mode="vector_entry_point", group_size=5
        ).unwrapped
        env.reset(seed=0)
        return env

    one, other = make(), make()
    one.step(np.array([1, 1]))
    other.set_state(one.get_state())
    for _ in range(9):
        assert (one.step(np.array([1, 1]))[4]["index"] == other.step(np.array([1, 1]))[4]["index"]).all()


def test_a_group_of_none_is_refused():
    with pytest.raises(ValueError, match="group_size must be a whole number of at least 1, got 0"):
        gym.make("rlhf/TokenBandit-v0", group_size=0)
