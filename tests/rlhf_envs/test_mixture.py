"""A mixture does what its tasks do alone, draws them in their shares, and refuses what does not fit together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from rlhf_envs.dialogs import Dialog, Reply
from rlhf_envs.episodes import EpisodeBatch
from rlhf_envs.models import load_tokenizer
from rlhf_envs.registration import describe, task_of
from rlhf_envs.rewards import Constrained, RewardError, ScoreError, evaluate_reward, frozen_rewards
from rlhf_envs.task_weights import FLOOR, WINDOW, TaskWeights
from rlhf_envs.tasks import WordTask
from rlhf_envs.tasks.mixture import Mixture
from rlhf_envs.tasks.prompts import Prompts
from rlhf_envs.testing import check_text_env
from rlhf_envs.text_env import TextGenerationEnv

WORDS = ("a", "b", "c", "d")
EOS = 1
TALK, COUNT, SHORT, LINES = (f"test/{name}-v0" for name in ("Talk", "Count", "Short", "Lines"))


class Talk(WordTask):
    """Say what is asked for, in two turns, to somebody who answers."""

    name, words, prompts, judges = "talk", WORDS, ("a", "b"), ("repetition",)
    max_prompt_tokens, max_new_tokens, max_turns = 1, 8, 2
    reply_format = " {text} "

    def replies(self, dialogs: Sequence[Dialog]) -> list[Reply]:
        assert all(dialog.row["prompt"] in ("a", "b") for dialog in dialogs)
        return [Reply("d", reward=0.25 * dialog.turn) for dialog in dialogs]


class Count(WordTask):
    """Write many words, but no d."""

    name, words, prompts = "count", WORDS, ("c", "c c", "c d")
    max_prompt_tokens, max_new_tokens = 2, 5

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        return [{**row, "weight": 0.5} for row in super().rows(split, data)]

    def reward(self, max_new_tokens: int) -> Any:
        def counted(prompts: list[Any], completions: list[Any], weight: list[float]) -> list[float]:  # no **columns
            return [w * len(text.split()) / max_new_tokens for w, text in zip(weight, completions, strict=True)]

        return counted

    def metrics(self, prompts: list[str], completions: list[str], columns: Any) -> dict[str, Sequence[float]]:
        assert {"weight"} <= columns.keys() <= {"weight", "kind"}
        assert "a" not in {prompt for prompt in prompts}
        return {"words": [len(text.split()) for text in completions]}

    def action_masks(self, input_ids: Any, lengths: Any, prompt_lengths: Any, steps: Any) -> np.ndarray:
        assert len(input_ids) == len(lengths) == len(prompt_lengths) == len(steps)
        masks = np.ones((len(steps), 2 + len(WORDS)), bool)
        masks[:, 5] = False
        return masks


class Short(WordTask):
    """Stop at once."""

    name, words, prompts = "short", (*WORDS, "e"), ("e",)
    default_reward = "distinct-ngrams"


class Lines(Prompts):
    """Talk in a form of its own where the model has none."""

    name = "lines"
    chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    tasks = {TALK: Talk, COUNT: Count, SHORT: Short, LINES: Lines}
    for env_id, task in tasks.items():
        gym.register(env_id, entry_point="rlhf_envs.text_env:TextGenerationEnv", kwargs={"task": task})
    yield
    for env_id in tasks:
        gym.registry.pop(env_id)


def batch(n: int, tasks: Any = (TALK, COUNT), **kwargs: Any) -> EpisodeBatch:
    return EpisodeBatch(n, Mixture, tasks=tasks, **kwargs)


def play(episodes: EpisodeBatch, index: int, actions: Sequence[int]) -> tuple[list[float], dict[str, Any]]:
    """Return the rewards and the last info of an episode in the first row."""
    episodes.start(0, index, seed=7)
    rewards: list[float] = []
    for action in actions:
        found, terminated, infos = episodes.step(np.array([action]))
        rewards.append(float(found[0]))
        if terminated[0]:
            return rewards, infos[0]
    raise AssertionError("the episode goes on")


def test_it_keeps_the_contracts_of_a_text_environment() -> None:
    check_text_env(
        EnvSpec("rlhf/Mixture-v0", **SPEC, kwargs={"task": "rlhf_envs.tasks.mixture:Mixture", "tasks": [TALK, COUNT]})
    )


SPEC: dict[str, Any] = {
    "entry_point": "rlhf_envs.text_env:TextGenerationEnv",
    "vector_entry_point": "rlhf_envs.vector_env:TextGenerationVectorEnv",
}


@pytest.mark.parametrize("actions", [[2, 3, EOS, 4, EOS], [2] * 8, [3, 3, 3, 3, EOS, EOS], [EOS, EOS]])
def test_an_episode_is_that_of_its_task_alone(actions: list[int]) -> None:
    mixture = batch(1)
    for index, row in enumerate(mixture.rows):
        alone = EpisodeBatch(1, {"talk": Talk, "count": Count}[row["task"]])
        own = [one["prompt"] for one in alone.rows].index(row["prompt"])
        (rewards, info), (expected, own_info) = play(mixture, index, actions), play(alone, own, actions)
        assert rewards == pytest.approx(expected)
        assert info["task"] == row["task"]
        for key in ("prompt", "completion", "finish_reason", "reward_components"):
            assert info[key] == own_info[key]
        assert {**info["metrics"], **own_info.get("metrics", {})} == info["metrics"]
        assert ("words" in info["metrics"]) == (row["task"] == "count")


def test_a_shorter_limit_of_the_mixture_shortens_its_tasks() -> None:
    mixture = batch(1, max_new_tokens=3)
    assert mixture.ids.shape == (1, 2 + 3)
    assert play(mixture, 2, [2, 2, 2])[0] == [0, 0, 0.5]
    with pytest.raises(
        ValueError, match=r"max_new_tokens=9 is more than any task of the mixture has \(8\): give it to a"
    ):
        batch(1, max_new_tokens=9)


def test_a_tasks_own_arguments_count_for_it_alone() -> None:
    def ones(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        seen.append((prompts, sorted(columns)))
        return [1.0] * len(prompts)

    seen: list[Any] = []
    data = [{"prompt": "b a", "kind": "x"}, {"prompt": "a b", "kind": "y"}]
    own = {"id": COUNT, "name": "own", "data": data, "test_share": 0, "validation_share": 0, "reward_fn": ones}
    mixture = batch(1, [COUNT, {**own, "max_new_tokens": 7}, {"id": TALK, "max_turns": 1}])
    places = [next(i for i, row in enumerate(mixture.rows) if row["task"] == name) for name in ("count", "own", "talk")]
    assert [play(mixture, i, [2] * 7)[0] for i in places[:2]] == [[0, 0, 0, 0, 0.5], [0, 0, 0, 0, 0, 0, 1.0]]
    assert play(mixture, places[2], [EOS])[1]["finish_reason"] == "turns"
    assert seen == [(["b a"], ["kind", "weight"])]


@pytest.mark.parametrize("constrained", [False, True])
def test_each_reward_is_asked_once_for_all_episodes_of_its_task(constrained: bool) -> None:
    """A cost around the rewards changes nothing while it has no price; what the rewards log is kept."""
    calls = []

    def note(name: str) -> Any:
        def reward(prompts: list[Any], completions: list[Any], log_metric: Any, log_extra: Any, **columns: Any) -> Any:
            calls.append((name, len(prompts), columns.keys()))
            log_metric("seen", len(prompts))
            log_extra("place", list(range(len(prompts))))
            return [None if name == "count" and not text else len(text.split()) for text in completions]

        return reward

    tasks = [{"id": env_id, "reward_fn": note(name)} for env_id, name in ((TALK, "talk"), (COUNT, "count"))]
    mixture = batch(5, tasks)
    if constrained:
        mixture.reward_fn = Constrained(mixture.reward_fn, "repetition", 0.1)
    for row in range(5):
        mixture.start(row, row)
    ended: list[Any] = []
    while len(ended) < 5:
        _, terminated, _ = mixture.step(np.full(5, 2), unscored=ended)
        for row in np.flatnonzero(terminated).tolist():
            mixture.start(row, 0)
    ended = ended[:5]
    scores = mixture.score(ended)
    tasks_of = [episode.info["task"] for episode in ended]
    assert Counter(tasks_of) == {"talk": 2, "count": 3}
    assert [(name, n) for name, n, _ in calls] == [("talk", 2), ("count", 3)]
    assert ["weight" in columns for _, _, columns in calls] == [False, True]
    assert scores.tolist() == [{"talk": 8.0, "count": 5.0}[task] for task in tasks_of]
    assert ended[0].info["logged"] == {"talk/seen": 2.0, "count/seen": 3.0}
    assert [episode.info["extra"]["place"] for episode in ended if episode.info["task"] == "count"] == [0, 1, 2]


def test_an_error_of_a_reward_names_its_task_and_the_episode() -> None:
    def fails(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        raise OSError("no network")

    def nothing(prompts: list[Any], completions: list[Any], **columns: Any) -> Any:
        return [None] * len(prompts)

    for reward, error, message in (
        (fails, RewardError, r"task 'count': reward 'fails' failed once on 1 completions.*row 2 of the data"),
        (nothing, ScoreError, r"task 'count': reward 'nothing' applies not at all.*environment 0 \(row 2 of the data"),
    ):
        mixture = batch(1, [TALK, {"id": COUNT, "reward_fn": reward}], reward_retries=0)
        with pytest.raises(error, match=f"(?s){message}"):
            play(mixture, 2, [EOS])


def test_token_rewards_of_one_task_stay_its_own() -> None:
    def by_token(prompts: list[Any], completions: list[Any], completion_ids: list[Any], **columns: Any) -> Any:
        return [[0.5] * len(ids) for ids in completion_ids]

    mixture = batch(2, [{"id": TALK, "reward_fn": by_token}, COUNT])
    mixture.start(0, 0)
    mixture.start(1, 2)
    ended: list[Any] = []
    for action in (2, 2, EOS, 2, EOS):
        mixture.step(np.array([action, 2]), unscored=ended)
        for row in np.flatnonzero(~mixture._running):
            mixture.start(int(row), 2)
    mixture.score(ended)
    tokens = {episode.info["task"]: episode.token_rewards for episode in ended}
    assert tokens["count"] is None
    assert tokens["talk"].tolist() == [0.5] * len(next(e for e in ended if e.info["task"] == "talk").completion_ids)


def test_masks_are_those_of_each_rows_task() -> None:
    mixture = batch(4, min_new_tokens=1)
    for row, index in enumerate((0, 2, 1, 3)):
        mixture.start(row, index)
    talk, count = [False, False, True, True, True, True], [False, False, True, True, True, False]
    assert mixture.action_masks().tolist() == [talk, count, talk, count]


def test_tasks_are_drawn_by_their_weights_and_the_seed() -> None:
    def drawn(seed: int, tasks: Any = {TALK: 3, COUNT: 1}) -> list[str]:  # noqa: B006
        mixture, rng = batch(1, tasks), np.random.default_rng(seed)
        infos = [mixture.draw(0, rng) for _ in range(400)]
        assert all(mixture.rows[info["index"]]["task"] == info["task"] for info in infos)
        return [info["task"] for info in infos]

    assert drawn(0) == drawn(0) != drawn(1)
    assert Counter(drawn(0))["talk"] == pytest.approx(300, abs=35)  # four standard deviations
    assert Counter(drawn(0, [TALK, {"id": COUNT, "weight": 7}]))["count"] == pytest.approx(350, abs=27)


def test_a_group_gets_one_prompt() -> None:
    mixture, rng = batch(1, group_size=3), np.random.default_rng(0)
    drawn = [mixture.draw(0, rng)["index"] for _ in range(30)]
    assert all(len({*drawn[i : i + 3]}) == 1 for i in range(0, 30, 3))
    mixture.set_group_size(1)
    assert mixture.sampler.tasks is not None


def test_held_out_prompts_are_in_the_shares_from_the_first_on() -> None:
    tasks = batch(1, {TALK: 3, COUNT: 1}, split="test").sampler.tasks
    assert tasks is not None
    names = np.array(["talk"] * 2 + ["count"] * 3)[tasks.held_out(200)]
    counts = np.cumsum(names == "count")
    assert np.abs(counts - np.arange(1, 201) / 4).max() <= 1
    assert {*tasks.held_out(12).tolist()} == {0, 1, 2, 3, 4}
    assert tasks.held_out(200)[:12].tolist() == tasks.held_out(12).tolist()


def test_progress_draws_what_changes() -> None:
    weights = TaskWeights(["x", "y", "z"], {"x": 0.5, "y": 0.25, "z": 0.25}, progress=True)
    half, steady = WINDOW // 2, [1.0] * WINDOW
    weights.learn(["x"] * WINDOW + ["y"] * (WINDOW - 1), [0.0] * half + [3.0] * half + steady[1:])
    assert weights.probabilities().tolist() == [0.5, 0.25, 0.25]  # not all have had 64 episodes
    weights.learn(["y"] + ["z"] * WINDOW, [1.0] + [2.0] * half + [1.0] * half)
    expected = FLOOR * np.array([0.5, 0.25, 0.25]) + (1 - FLOOR) * np.array([3, 0, 1]) / 4
    assert weights.probabilities() == pytest.approx(expected)
    weights.learn(["x"] * WINDOW + ["z"] * WINDOW, [9.0] * WINDOW * 2)
    assert weights.probabilities().tolist() == [0.5, 0.25, 0.25]  # nothing changes
    again = TaskWeights(["x", "y", "z"], {"x": 0.5, "y": 0.25, "z": 0.25}, progress=True)
    again.set_state(weights.get_state())
    for one in (weights, again):
        one.learn(["y"] * half, [0.0] * half)
    assert again.probabilities().tolist() == weights.probabilities().tolist() != [0.5, 0.25, 0.25]
    with pytest.raises(ValueError, match="the state is of the tasks x, y, z, and here are x"):
        TaskWeights(["x"], {"x": 1.0}, progress=True).set_state(weights.get_state())


def test_progress_learns_from_training_alone() -> None:
    def seen(episodes: EpisodeBatch) -> list[int]:
        assert episodes.sampler.tasks is not None
        return [len(rewards) for rewards in episodes.sampler.tasks.get_state().values()]

    mixture = batch(1, weights="progress")
    play(mixture, 0, [2, EOS, 3, EOS])
    assert seen(mixture) == [1, 0]
    assert mixture.get_state()["tasks"]["talk"].tolist() == [0.75]  # the turns' rewards count
    copied = mixture.copy(1)
    play(copied, 0, [EOS, EOS])
    with frozen_rewards():
        play(mixture, 0, [EOS, EOS])
    assert seen(mixture) == [1, 0]
    held_out = batch(1, weights="progress", split="test").sampler.tasks
    assert held_out is not None
    assert not held_out.progress


def test_data_of_the_mixture_say_whose_they_are(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": "c", "task": "count"}, {"prompt": "a", "task": "talk"}]
    mixture = batch(1, data=rows, validation_share=0, test_share=0)
    assert [row["task"] for row in mixture.rows] == ["count", "talk"]
    assert mixture.rows[0]["weight"] == 0.5
    with pytest.raises(ValueError, match=r"row 1 of the mixture's data has task='tlak': .* one of talk, count"):
        batch(1, data=[rows[0], {**rows[1], "task": "tlak"}])
    tasks = batch(1, data=rows[:1]).sampler.tasks
    assert tasks is not None
    assert (tasks.tasks, tasks.shares.tolist()) == (["count"], [1.0])
    assert "no rows of the mixture's tasks ['talk']" in caplog.text


def test_judges_judge_their_own_tasks_episodes() -> None:
    mixture = Mixture([TALK, COUNT])
    mixture.rows("train", None)
    assert mixture.judges == ("repetition",)
    columns: dict[str, Any] = {"task": ["count", "talk"], "weight": [1, None]}
    scores, _ = evaluate_reward(mixture.get_judge("repetition"), ["c", "a"], ["b b b", "b b b"], columns)
    assert np.isnan(scores[0])
    assert scores[1] == 0.5


def test_names_of_metrics_are_known_before_anything_runs() -> None:
    mixture = Mixture([TALK, COUNT])
    assert mixture.metric_names(mixture.rows("train", None)) == [
        *("turns", "reply_cut", "talk/reward", "talk/repetition", "talk/turns", "talk/reply_cut"),
        *("words", "count/reward", "count/words"),
    ]


def test_its_spec_goes_through_json() -> None:
    tasks = [{"id": TALK, "weight": 2}, {"id": COUNT, "name": "other"}]
    env = gym.make("rlhf/Mixture-v0", tasks=tasks, weights="progress")
    assert env.spec is not None
    assert json.loads(env.spec.to_json())["kwargs"]["tasks"] == tasks
    copy: Any = gym.make(EnvSpec.from_json(env.spec.to_json())).unwrapped
    assert copy.task.shares == {"talk": 2 / 3, "other": 1 / 3}
    assert copy.task.progress


def test_its_default_is_described_and_its_task_found_with_its_arguments() -> None:
    assert describe("rlhf/Mixture-v0").reward == "by task"
    task = task_of("rlhf/Mixture-v0", tasks=[TALK, COUNT])
    assert task is not None
    assert [*task.subtasks] == ["talk", "count"]


ROWS = [{"prompt": "c", "task": "x"}]


@pytest.mark.parametrize(
    ("tasks", "error", "message"),
    [
        (
            [TALK, SHORT],
            ValueError,
            "the tasks 'talk' and 'short' of the mixture have different vocabularies, of 6 and 7",
        ),
        (
            {TALK: 1, COUNT: 0},
            ValueError,
            "the weight of task 'count' is 0: give a number above 0, or leave the task out",
        ),
        ({TALK: 1, COUNT: -1}, ValueError, "the weight of task 'count' is -1"),
        ({TALK: 1, COUNT: float("nan")}, ValueError, "the weight of task 'count' is nan"),
        ([TALK, {"id": COUNT, "weight": True}], ValueError, "the weight of task 'count' is True"),
        ([TALK, {"id": COUNT, "weight": "2"}], ValueError, "the weight of task 'count' is '2'"),
        ([TALK, "test/Cuont-v0"], ValueError, "unknown environment 'test/Cuont-v0': did you mean 'test/Count-v0'"),
        ([TALK, "CartPole-v1"], ValueError, "'CartPole-v1' is no text environment"),
        ([TALK], ValueError, "is no mixture: give at least two tasks"),
        ([], ValueError, "is no mixture: give at least two tasks"),
        (TALK, ValueError, "give ids, {id: weight}, or dicts"),
        ([TALK, 3], ValueError, r"tasks\[1\] is 3, without the id of an environment"),
        ([TALK, {"name": "x"}], ValueError, r"tasks\[1\] is {'name': 'x'}, without the id"),
        ([TALK, TALK], ValueError, "two tasks of the mixture are named 'talk': give one of them another 'name'"),
        ([TALK, {"id": COUNT, "name": "a/b"}], ValueError, "the name 'a/b' of a task of the mixture"),
        ([TALK, "rlhf/Mixture-v0"], ValueError, "'rlhf/Mixture-v0' is a mixture itself: list its tasks"),
        ([TALK, {"id": COUNT, "task": "m:T"}], TypeError, "task 'count' of the mixture takes no argument 'task'"),
        ([TALK, {"id": COUNT, "rewards": "x"}], TypeError, "task 'count' of the mixture takes no argument 'rewards'"),
        ([TALK, {"id": COUNT, "split": "test"}], ValueError, "task 'count' of the mixture: split is one for all tasks"),
        ([TALK, {"id": COUNT, "max_new_tokens": 0}], ValueError, "max_new_tokens must be a whole number of at least 1"),
        ([TALK, {"id": COUNT, "max_turns": 2}], ValueError, "task 'count' of the mixture has no replies"),
        ([TALK, {"id": COUNT, "data": ROWS}], ValueError, "the data of task 'count' has a column 'task'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tasks: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TextGenerationEnv(Mixture, tasks=tasks)


def test_other_tasks_take_no_tasks_and_weights_are_progress_or_none() -> None:
    with pytest.raises(ValueError, match=r"is for rlhf/Mixture-v0, not for task <class .*Count.>: leave it out"):
        TextGenerationEnv(Count, tasks=[TALK, COUNT])
    with pytest.raises(ValueError, match=r"weights='progres': 'progress', or leave it out"):
        TextGenerationEnv(Mixture, tasks=[TALK, COUNT], weights="progres")


def test_tasks_of_conversations_bring_their_chat_template() -> None:
    """Customer service speaks in role lines where the model has no template. The others' prompts stay as they are."""
    tasks = ({"id": "rlhf/CustomerService-v0", "name": "service"}, {"id": "rlhf/Sentiment-v0", "name": "film"})
    mixed = EpisodeBatch(1, Mixture(tasks), model="tiny")
    alone = EpisodeBatch(1, "rlhf_envs.tasks.customer_service:CustomerService", model="tiny")
    place = next(i for i, row in enumerate(mixed.rows) if row["task"] == "service")
    texts: list[str] = []
    for batch, index in ((mixed, place), (alone, 0)):
        batch.draw(0, np.random.default_rng(0), index)
        row = batch.observe_row(0)
        texts.append(str(load_tokenizer("tiny").decode(row["input_ids"][row["attention_mask"] == 1])))
    assert texts[0] == texts[1]
    assert texts[0].endswith("assistant:")


def test_tasks_with_different_chat_templates_bring_none_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """A template for the whole mixture is taken, and then nothing is said."""
    mixture = Mixture(["rlhf/CustomerService-v0", "rlhf/Dialogue-v0", "rlhf/Sentiment-v0"])
    EpisodeBatch(1, mixture, model="tiny")
    assert "chat template" not in caplog.text, "both have role lines"
    mixture = Mixture(["rlhf/CustomerService-v0", {"id": LINES, "data": [{"prompt": "hello"}], "reward": "repetition"}])
    EpisodeBatch(1, mixture, model="tiny", chat_template="roles")
    assert "chat template" not in caplog.text
    with pytest.raises(ValueError, match=r"row \d+: a prompt of messages needs a chat template.*give chat_template"):
        EpisodeBatch(1, mixture, model="tiny")
    assert "the tasks 'customer-service' and 'lines' of the mixture have different chat templates" in caplog.text
    assert "give it a chat_template for all" in caplog.text
