"""People as a reward. Their part is played by a thread that answers through the store, as they do."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlhf_envs import get_reward
from rlhf_envs.rewards import RewardError, registry
from rlhf_envs.rewards.human import HumanReward, Waiting
from rlhf_envs.rewards.state import frozen_rewards
from tests.beside import beside

pytest.importorskip("sqlalchemy")

from rlhf_envs.feedback import FeedbackStore, NewItem, Task
from rlhf_envs.feedback.annotating import Response, work

PROMPTS, COMPLETIONS = ["p"] * 3, ["bad", "fine", "good"]
RATINGS = {"bad": 1, "fine": 3, "good": 5}
SCORES = [-1.0, 0.0, 1.0]


def make(store: Any, **kwargs: Any) -> HumanReward:
    return HumanReward(store, **{"poll": 0.01, "fallback": "words", "timeout": 20.0, **kwargs})


@pytest.fixture(autouse=True)
def _fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward that needs no model: the length of the completion."""
    monkeypatch.setattr(registry, "_made", {})
    monkeypatch.setitem(registry._targets, "words", lambda prompts, completions, **columns: list(map(len, completions)))


@contextmanager
def people(
    path: Path,
    answer: Callable[[Task], dict[str, Any] | None],
    names: tuple[str, ...] = ("ann",),
    delay: float = 0.0,
    answers: Callable[[Task], dict[str, Any] | None] = lambda task: None,
) -> Iterator[None]:
    """Annotators who answer whatever comes until the `with` ends."""
    with FeedbackStore(path) as store:
        for name in names:
            store.add_annotator(name)

    def work(stop: threading.Event) -> None:
        with FeedbackStore(path) as store:
            while not stop.wait(0.01):
                for name in names:
                    if (task := store.claim(name)) is not None:
                        time.sleep(delay)
                        store.submit(task.id, name, answer(task), key=f"{name}-{task.id}", answers=answers(task))

    with beside(work):
        yield


def skipped_by(path: Path, name: str, completion: str, **kwargs: Any) -> None:
    """Ask about a completion, which somebody skips."""
    with pytest.raises(RewardError, match="people judged 0 of 1"):
        make(path, timeout=0.01, on_timeout="error", **kwargs)(prompts=["p"], completions=[completion])
    with FeedbackStore(path) as store:
        store.add_annotator(name)
        task = store.claim(name)
        assert task is not None
        store.submit(task.id, name, None, key=f"{name} skips {completion}")


def rate(task: Task) -> dict[str, Any]:
    return {"rating": RATINGS[task.item.completions[0]]}


@pytest.fixture
def path(empty_store: Path) -> Path:
    return empty_store


def test_an_episode_waits_for_a_person(path: Path) -> None:
    reward, seen = make(path), []
    reward.on_wait = seen.append
    with people(path, rate, delay=0.05):
        np.testing.assert_array_equal(reward(prompts=PROMPTS, completions=COMPLETIONS), SCORES)
    assert seen[0] == Waiting(seen[0].seconds, asked=3, missing=3)
    assert [waiting.seconds for waiting in seen] == sorted(waiting.seconds for waiting in seen)
    assert 0.05 <= reward.waited < 20
    assert reward.metrics()["human_labels"] == 3
    assert reward.metrics()["human_queue"] == 0


def test_the_store_that_nobody_named_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for kwargs in ({"store": "feedback.db"}, {"store": None}):
        HumanReward(fallback="words", **kwargs)
    assert not caplog.text
    HumanReward(fallback="words", mode="async")
    assert f"is given no store: people are asked through {tmp_path / 'feedback.db'}; name another" in caplog.text


def test_the_score_is_the_mean_of_overlap_people_on_the_scale_of_the_store(path: Path) -> None:
    with FeedbackStore(path) as store:
        store.update_settings(scale=(0, 10))
    ratings = iter([0, 10, 5])
    with people(path, lambda task: {"rating": next(ratings)}, names=("ann", "bob", "eve")):
        assert make(path, overlap=3)(prompts=["p"], completions=["c"])[0] == pytest.approx(0.0)


def test_who_clicks_at_random_hardly_counts_once_that_shows(path: Path) -> None:
    """In the score, and in the rows that the model is fitted to."""
    draw = np.random.default_rng(0)
    worth = {f"text {i}": int(draw.integers(1, 6)) for i in range(20)}

    def judged(store: FeedbackStore, name: str, completion: str) -> Response:
        return Response({"rating": int(draw.integers(1, 6)) if name in ("x", "y") else worth[completion]})

    names, texts = ("ann", "bob", "eve", "ivy", "joe", "x", "y"), list(worth)
    with FeedbackStore(path) as store:
        store.add_items(
            NewItem("rating", "p", (text,), source="environment", overlap=7, max_overlap=7) for text in texts
        )
        for name in names:
            work(store, name, lambda task, name=name: judged(store, name, task.item.completions[0]))  # type: ignore[misc]
    prompts, expected = ["p"] * len(texts), (np.array(list(worth.values())) - 3) / 2
    plain, weighed = (np.asarray(make(path, overlap=7, weigh=weigh)(prompts, texts)) for weigh in (False, True))
    assert np.abs(weighed - expected).mean() < 0.1 < np.abs(plain - expected).mean()
    rows: list[dict[str, Any]] = []
    reward = make(path, mode="async", refit_every=100, overlap=7)
    reward.refit = lambda given: rows.extend(given)
    reward(prompts, texts)
    clicked = {row["weight"] for row in rows if row["annotator"] in ("x", "y")}
    assert max(clicked) < 0.3 < min(row["weight"] for row in rows if row["annotator"] not in ("x", "y"))


def test_a_conversation_is_shown_as_text_and_fitted_to_as_messages(path: Path) -> None:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "p"}]
    reward = make(path)
    with people(path, rate):
        scores = reward(prompts=[asked], completions=[[{"role": "assistant", "content": "good"}]])
    (item,) = reward.open().items()
    assert (scores.tolist(), item.prompt, item.completions) == ([1.0], "System: Be brief.\n\nUser: p", ("good",))
    assert (reward.labels()[0]["prompt"], reward.labels()[0]["completion"]) == (asked, "good")


def test_thumbs_are_minus_one_and_one(path: Path) -> None:
    with people(path, lambda task: {"up": task.item.completions[0] == "good"}):
        scores = make(path, kind="thumbs")(prompts=PROMPTS, completions=COMPLETIONS)
    assert scores.tolist() == [-1.0, -1.0, 1.0]


def test_the_same_text_is_asked_once_also_by_a_run_that_was_killed(path: Path) -> None:
    reward = make(path)
    with people(path, rate):
        assert reward(prompts=["p"] * 4, completions=["good", "bad", "good", "bad"]).tolist() == [1, -1, 1, -1]
    again = make(path, timeout=0.05, on_timeout="error")  # nobody is there any more
    assert again(prompts=PROMPTS[:2], completions=["bad", "good"]).tolist() == [-1, 1]
    with FeedbackStore(path) as store:
        assert len(store.items()) == 2


def test_when_time_is_over_the_fallback_answers_for_those_that_miss(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with people(path, rate):
        make(path)(prompts=["p"], completions=["good"])
    reward = make(path, timeout=0.02, fallback="words")
    scores = reward(prompts=PROMPTS, completions=["good", "fine", "bad"])
    assert scores[0] == 1.0
    assert scores[1:].tolist() == np.tanh([4.0, 3.0]).tolist()
    assert reward.missed == 2
    assert "people did not rate 2 of 3 completions: their score is the fallback" in caplog.text
    with FeedbackStore(path) as store:
        store.add_annotator("late")
        assert store.claim("late") is None  # what nobody waits for is asked no more


def test_when_time_is_over_the_mean_of_the_others_may_stand_in(path: Path) -> None:
    with people(path, rate):
        make(path)(prompts=["p"], completions=["good"])
    scores = make(path, timeout=0.02, on_timeout="mean")(prompts=PROMPTS[:2], completions=["good", "bad"])
    assert scores.tolist() == [1.0, 1.0]
    assert make(path, timeout=0.02, on_timeout="mean")(prompts=["q"], completions=["c"]).tolist() == [0.0]


def test_when_time_is_over_the_run_may_stop_and_its_questions_stay(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []
    wait = HumanReward.score
    monkeypatch.setattr(HumanReward, "score", lambda *given, **columns: scored.append(1) or wait(*given, **columns))
    env = gym.make(
        "rlhf/TokenBandit-v0",
        reward="human",
        reward_kwargs={"store": str(path), "timeout": 0.1, "on_timeout": "error", "fallback": "words"},
        max_new_tokens=1,
    )
    env.reset(seed=0)
    with pytest.raises(RewardError, match=r"people judged 0 of 1 completions within 0.1 s; .*feedback.db: serve it"):
        env.step(2)
    assert len(scored) == 1  # it is not tried again, which would wait again
    with FeedbackStore(path) as store:
        assert store.progress().items - store.progress().finished == 1


def test_what_everybody_skips_is_not_waited_for(path: Path) -> None:
    with people(path, lambda task: None, names=("ann", "bob")):
        reward = make(path, on_timeout="mean", timeout=None)
        assert reward(prompts=["p"], completions=["c"]).tolist() == [0.0]
    assert reward.missed == 1


def test_accounts_that_never_work_are_not_waited_for(path: Path) -> None:
    with FeedbackStore(path) as store:
        store.add_annotator("boss", "admin")
        store.add_annotator("invited, and never came")
    with people(path, lambda task: None):
        reward = make(path, on_timeout="error")
        with pytest.raises(RewardError, match="0 of 1"):
            make(path, on_timeout="error", timeout=0.3, overlap=2)(prompts=["p"], completions=["one is not two"])
        reward.on_timeout = "mean"
        assert reward(prompts=["p"], completions=["good"]).tolist() == [0.0]
    assert (reward.missed, reward.waited < 10) == (1, True)


def test_a_skip_is_made_up_for_by_the_others(path: Path) -> None:
    with FeedbackStore(path) as store:
        store.add_annotator("boss", "admin")
    with people(path, lambda task: None if task.annotator.name == "ann" else rate(task), names=("ann", "bob")):
        reward = make(path, overlap=2, on_timeout="error")
        assert reward(prompts=["p"], completions=["good"]).tolist() == [1.0]  # bob's: nobody else is there
    assert (reward.missed, reward.waited < 10) == (0, True)


def test_who_has_worked_before_is_waited_for_after_a_skip(path: Path) -> None:
    with people(path, rate, names=("bob",)):
        make(path)(prompts=["p"], completions=["good"])
    skipped_by(path, "ann", "bad")
    with pytest.raises(RewardError, match="people judged 0 of 1"):
        make(path, timeout=0.01, on_timeout="error")(prompts=["p"], completions=["bad"])
    with people(path, rate, names=("bob",)):
        assert make(path)(prompts=["p"], completions=["bad"]).tolist() == [-1.0]


def test_who_is_switched_off_is_not_waited_for(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with people(path, rate, names=("bob", "eve")):
        make(path, overlap=2)(prompts=["p"], completions=["good"])
    reward = make(path, timeout=None, on_timeout="mean")
    looks: list[Waiting] = []

    def switch_off(waiting: Waiting) -> None:
        """Bob's account goes when he is waited for, and then eve's."""
        looks.append(waiting)
        if caplog.messages and (name := {1: "bob", 2: "eve"}.get(len(caplog.messages))):
            reward.open().switch_account(name, active=False)

    reward.on_wait = switch_off
    caplog.clear()
    with people(path, lambda task: None):
        reward._asked["q", "seen"] = -1  # so that the warning about an empty queue does not come
        assert reward(prompts=["p"], completions=["bad"]).tolist() == [0.0]
    assert [message.partition(" completions ")[2].partition(";")[0] for message in caplog.messages[:2]] == [
        "wait for bob, eve",
        "wait for eve",
    ]
    assert "did not rate 1 of 1 completions" in caplog.messages[2]
    assert reward.missed == 1


def test_the_answers_of_who_is_switched_off_count(path: Path) -> None:
    with people(path, rate, names=("bob",)):
        make(path)(prompts=["p"], completions=["good"])
    with FeedbackStore(path) as store:
        store.switch_account("bob", active=False)
    assert make(path, timeout=0.05, on_timeout="error")(prompts=["p"], completions=["good"]).tolist() == [1.0]


def test_when_time_is_over_the_error_names_who_did_not_come(path: Path) -> None:
    with people(path, rate, names=("bob",)):
        make(path)(prompts=["p"], completions=["good"])
    skipped_by(path, "ann", "bad")
    with pytest.raises(RewardError, match="1 skipped completions wait for bob; if they will not come: rlhf feedback"):
        make(path, timeout=0.01, on_timeout="error")(prompts=["p"], completions=["bad"])


def test_too_few_people_are_an_error_that_says_so(path: Path) -> None:
    skipped_by(path, "ann", "bad", overlap=2)
    with pytest.raises(RewardError, match="wait for somebody new: invite more people"):
        make(path, timeout=0.01, on_timeout="error", overlap=2)(prompts=["p"], completions=["bad"])


def test_what_a_model_says_for_people_is_within_their_bounds_and_in_its_order(path: Path) -> None:
    scores = make(None)(prompts=["p"] * 3, completions=["", "x", "xxx"])
    assert scores[0] == 0.0
    assert 0.0 < scores[1] < scores[2] <= 1.0


def test_on_wait_can_end_the_wait_and_the_questions_stay(path: Path) -> None:
    reward = make(path, timeout=None)
    reward.on_wait = lambda waiting: waiting.seconds < 0.05
    assert reward(prompts=["p"], completions=["c"]).tolist() == [0.0]
    assert reward.metrics()["human_queue"] == 1


def test_evaluations_ask_nobody(tmp_path: Path) -> None:
    reward = make(path := tmp_path / "none.db", fallback="words")
    with frozen_rewards():
        scores = reward(prompts=PROMPTS, completions=COMPLETIONS)
    np.testing.assert_array_equal(scores, np.tanh([3.0, 4.0, 4.0]))
    assert not path.exists()


def test_async_answers_at_once_and_refits_when_enough_labels_came(path: Path) -> None:
    reward = make(path, mode="async", refit_every=3, fallback="words")
    fitted: list[list[dict[str, Any]]] = []

    def refit(rows: list[dict[str, Any]]) -> Any:
        fitted.append(rows)
        return lambda prompts, completions, **columns: [float(len(fitted))] * len(prompts)

    reward.refit = refit
    first = reward(prompts=PROMPTS, completions=COMPLETIONS)
    np.testing.assert_array_equal(first, np.tanh([3.0, 4.0, 4.0]))
    with FeedbackStore(path) as store, people(path, rate):
        while store.progress().judgements < 3:
            time.sleep(0.01)
    assert reward(prompts=["p"], completions=["new"]).tolist() == [np.tanh(1.0)]
    [rows] = fitted
    assert {(row["completion"], row["label"]) for row in rows} == set(zip(COMPLETIONS, SCORES, strict=True))
    assert reward(prompts=["p"], completions=["new"]).tolist() == [np.tanh(1.0)]  # not again before three more
    assert (len(fitted), reward.refits) == (1, 1)


def test_gold_questions_and_other_kinds_are_no_labels(path: Path) -> None:
    from rlhf_envs.feedback import NewItem

    with FeedbackStore(path) as store:
        store.update_settings(next_item="age")  # the answers below are in this order
        store.add_items([NewItem("rating", "p", ("gold",), gold={"rating": 1}), NewItem("thumbs", "p", ("good",))])
        store.add_items([NewItem("rating", "p", ("good",))])
        store.add_annotator("ann")
        for i, value in enumerate([{"rating": 1}, {"up": True}, {"rating": 5}]):
            task = store.claim("ann")
            assert task is not None
            store.submit(task.id, "ann", value, key=str(i))
    assert [(row["completion"], row["label"], row["annotator"]) for row in make(path).labels()] == [("good", 1, "ann")]


def test_a_full_queue_takes_no_more_and_the_count_is_kept(path: Path) -> None:
    reward = make(path, mode="async", queue_limit=2)
    reward(prompts=["p"] * 5, completions=list("abcde"))
    assert (reward.metrics()["human_queue"], reward.unasked) == (2, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "later"}, "mode is 'later': choose sync, async"),
        ({"kind": "pairwise"}, "kind is 'pairwise': choose rating, thumbs"),
        ({"on_timeout": "cry"}, "on_timeout is 'cry'"),
        ({"timeout": 0}, "timeout must be seconds above 0, got 0"),
        ({"poll": -1.0}, "poll must be seconds above 0"),
        ({"overlap": 0}, "overlap must be a whole number of at least 1"),
        ({"fallback": "oracle"}, "unknown reward 'oracle'"),
    ],
)
def test_a_wrong_argument_is_named_at_once(wrong: dict[str, Any], message: str, path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make(path, **wrong)


def test_a_copy_in_another_process_opens_the_store_anew(path: Path) -> None:
    reward = make(path, mode="async", fallback="token-bandit")
    reward(prompts=["p"], completions=["c"])
    copy = pickle.loads(pickle.dumps(reward))
    copy(prompts=["p"], completions=["c"])
    assert copy.metrics()["human_queue"] == 1


def test_the_environment_takes_the_rewards_arguments_by_name_and_they_survive_json(path: Path) -> None:
    kwargs = {"store": str(path), "poll": 0.01, "fallback": "words"}
    env = gym.make("rlhf/TokenBandit-v0", reward="human", reward_kwargs=kwargs, max_new_tokens=1)
    assert env.spec is not None
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    envs = gym.make_vec(spec, num_envs=2, vectorization_mode="vector_entry_point")
    envs.reset(seed=0)
    with people(path, lambda task: {"rating": 4}):
        _, rewards, terminated, _, infos = envs.step(np.array([2, 3]))
    assert terminated.all()
    assert rewards.tolist() == [0.5, 0.5]
    assert infos["final_info"]["reward_components"]["human"].tolist() == [0.5, 0.5]


def test_the_human_environment_is_not_deterministic_and_asks_through_the_store_it_is_given(path: Path) -> None:
    assert gym.spec("rlhf/HumanSentiment-v0").nondeterministic
    env: Any = gym.make("rlhf/HumanSentiment-v0", reward_kwargs={"store": str(path), "mode": "async"})
    assert (env.unwrapped.reward_fn.store, env.unwrapped.reward_fn.mode) == (str(path), "async")
    alone: Any = gym.make("rlhf/HumanSentiment-v0").unwrapped
    assert alone.reward_fn.store is None
    scores = alone.reward_fn(prompts=PROMPTS, completions=COMPLETIONS)
    models = get_reward("tiny-reward")(prompts=PROMPTS, completions=COMPLETIONS)
    np.testing.assert_array_equal(scores, np.tanh(models))


def test_arguments_go_to_a_reward_that_takes_them(path: Path) -> None:
    with pytest.raises(ValueError, match=r"reward 'human' does not take the arguments .*'colour'"):
        get_reward("human", colour="blue")
    with pytest.raises(ValueError, match=r"reward 'gold' is made without arguments, got x|'gold' does not take"):
        get_reward("gold", x=1)
    with pytest.raises(ValueError, match="are for a reward given by name"):
        gym.make("rlhf/TokenBandit-v0", reward_fn=len, reward_kwargs={"x": 1})
    assert get_reward("human", store=None) is not get_reward("human", store=None)
    assert get_reward("tiny-reward") is get_reward("tiny-reward")


HELPFUL = {"name": "helpful", "text": "How helpful is it?", "type": "rating", "scale": [0, 10]}
KIND = {"name": "kind", "text": "Is it kind?", "type": "labels", "labels": ["yes", "no"]}


@pytest.mark.parametrize("kind", ["rating", "questions"])
def test_the_answers_to_a_criterion_are_the_reward_on_its_own_scale(kind: str, path: Path) -> None:
    with FeedbackStore(path) as store:
        store.update_settings(questions=[HELPFUL, KIND])
    said = {"bad": (10, "no"), "fine": (5, "yes"), "good": (0, "no")}  # against the ratings

    def answers(task: Task) -> dict[str, Any]:
        helpful, is_kind = said[task.item.completions[0]]
        return {"helpful": helpful, "kind": is_kind}

    value = rate if kind == "rating" else (lambda task: {})
    with people(path, value, answers=answers):
        helpful = make(path, kind=kind, criterion="helpful")
        np.testing.assert_array_equal(helpful(PROMPTS, COMPLETIONS), [1.0, 0.0, -1.0])
    assert [row["label"] for row in helpful.labels()] == [
        {"bad": 1.0, "fine": 0.0, "good": -1.0}[row["completion"]] for row in helpful.labels()
    ]
    nice = make(path, kind=kind, criterion="kind")  # nobody is asked again
    np.testing.assert_array_equal(nice(PROMPTS, COMPLETIONS), [-1.0, 1.0, -1.0])
    with FeedbackStore(path) as store:
        assert store.progress().items == 3
    if kind == "rating":
        np.testing.assert_array_equal(make(path)(PROMPTS, COMPLETIONS), SCORES)


def test_several_criteria_are_weighed_and_count_where_all_are_answered(path: Path) -> None:
    with FeedbackStore(path) as store:
        store.update_settings(questions=[HELPFUL, {**KIND, "required": False}])
    said = {"bad": {"helpful": 10, "kind": "no"}, "fine": {"helpful": 5, "kind": "yes"}, "good": {"helpful": 0}}
    with people(path, rate, answers=lambda task: said[task.item.completions[0]]):
        reward = make(path, criterion={"helpful": 3, "kind": -1}, on_timeout="mean", timeout=None)
        scores = reward(PROMPTS, COMPLETIONS)
    assert scores.tolist() == [(3 * 1 - -1) / 4, (3 * 0 - 1) / 4, pytest.approx((1 - 0.25) / 2)]
    assert reward.missed == 1
    assert sorted(row["label"] for row in reward.labels()) == [-0.25, 1.0]
    with pytest.raises(ValueError, match="has the criterion 3 of 'helpful' and -1 of 'kind' already, so not 'kind'"):
        reward.take_criterion("kind")


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ({}, "criterion is {}: expected the name of a question, or several with weights"),
        ({"helpful": 0}, "weight of criterion 'helpful' is 0: a number other than 0"),
        ({"helpful": "much"}, "weight of criterion 'helpful' is 'much'"),
        ({"helpful": 1, "kinder": 1}, "no criterion 'kinder'; did you mean 'kind'"),
    ],
)
def test_weights_that_are_none_are_refused(criterion: Any, message: str, path: Path) -> None:
    with FeedbackStore(path) as store:
        store.update_settings(questions=[HELPFUL, KIND])
    with pytest.raises(ValueError, match=message):
        make(path, criterion=criterion).open()


def test_an_optional_criterion_that_people_leave_out_is_not_waited_for(path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(registry._targets, "words", lambda prompts, completions, **columns: [9.0] * len(prompts))
    with FeedbackStore(path) as store:
        store.update_settings(questions=[{**HELPFUL, "required": False}])
    reward = make(path, criterion="helpful", timeout=None)

    def answers(task: Task) -> dict[str, Any] | None:
        return None if task.item.completions[0] == "fine" else {"helpful": 0}

    with people(path, rate, answers=answers):
        assert reward(PROMPTS, COMPLETIONS) == pytest.approx([-1.0, 1.0, -1.0], abs=1e-6)
    assert reward.missed == 1
    assert [row["completion"] for row in reward.labels()].count("fine") == 0


def test_answers_from_before_the_criterion_was_asked_are_asked_anew(path: Path) -> None:
    with people(path, rate):
        np.testing.assert_array_equal(make(path)(PROMPTS, COMPLETIONS), SCORES)
    with FeedbackStore(path) as store:
        store.update_settings(questions=[HELPFUL])
    with people(path, rate, names=("eve",), answers=lambda task: {"helpful": 10}):
        np.testing.assert_array_equal(make(path, criterion="helpful")(PROMPTS, COMPLETIONS), [1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ("helpfull", "no criterion 'helpfull'; did you mean 'helpful'"),
        ("better", r"criterion 'better' \(the type 'text'\) says of no completion"),
        ("pairs", "criterion 'pairs' is not asked about items of kind 'rating' .*; asked are helpful, better"),
    ],
)
def test_a_criterion_that_is_not_asked_or_is_no_number_is_refused_before_anybody_is_asked(
    criterion: str, message: str, path: Path
) -> None:
    with FeedbackStore(path) as store:
        free = {"name": "better", "text": "Write it better.", "type": "text"}
        store.update_settings(questions=[HELPFUL, free, {**HELPFUL, "name": "pairs", "kinds": ["pairwise"]}])
    with pytest.raises(ValueError, match=message):
        make(path, criterion=criterion)(PROMPTS, COMPLETIONS)
    with FeedbackStore(path) as store:
        assert store.progress().items == 0


def test_a_reward_takes_one_criterion(path: Path) -> None:
    with FeedbackStore(path) as store:
        store.update_settings(questions=[HELPFUL, KIND])
    with pytest.raises(ValueError, match="kind 'questions' has no question of its own: name one"):
        make(path, kind="questions")
    reward = make(path)
    reward.take_criterion("helpful")
    with pytest.raises(ValueError, match="has the criterion 'helpful' already, so not 'kind'"):
        reward.take_criterion("kind")
