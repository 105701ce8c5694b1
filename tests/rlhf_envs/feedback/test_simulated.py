from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_envs.feedback import Annotator, Assignment, FeedbackStore, Item, NewItem, Question
from rlhf_envs.feedback.annotating import Response, work
from rlhf_envs.feedback.simulated import SimulatedAnnotator, annotate, simulated_crowd

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MANY = 4000


def by_digits(prompts: list[str], completions: list[str]) -> list[float]:
    """The number that a completion ends in."""
    return [float(completion.split()[-1]) for completion in completions]


def task(kind: str, *completions: str, i: int = 1, sides: tuple[int, ...] = (), **item: Any) -> Assignment:
    made = Item(i, kind, "say", completions, "", "", item.get("meta", {}), 1, None, 0.0, NOW)
    return Assignment(1, made, Annotator(1, "a", "annotator", NOW), sides or tuple(range(len(completions))), NOW)


def share_of(
    annotator: SimulatedAnnotator, kind: str, *completions: str, sides: tuple[int, ...] = (), **wanted: Any
) -> float:
    answers = [annotator(task(kind, *completions, i=i, sides=sides)).value for i in range(1, MANY + 1)]
    return float(np.mean([all(a is not None and a[k] == v for k, v in wanted.items()) for a in answers]))


@pytest.fixture
def store(empty_store: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(empty_store, seed=0) as store:
        yield store


# One annotator


def test_without_noise_the_better_one_is_always_chosen() -> None:
    annotator = SimulatedAnnotator(by_digits)
    assert annotator(task("pairwise", "text 0.4", "text 0.6")).value == {"choice": 1, "strength": 1}
    assert annotator(task("pairwise", "text 3", "text 0.6")).value == {"choice": 0, "strength": 3}
    assert annotator(task("ranking", "a 2", "b 5", "c 3")).value == {"order": [1, 2, 0]}


@pytest.mark.parametrize(("difference", "temperature"), [(1.0, 1.0), (0.5, 2.0), (2.0, 0.7)])
def test_noise_is_that_of_bradley_and_terry(difference: float, temperature: float) -> None:
    expected = 1 / (1 + math.exp(-difference / temperature))
    found = share_of(SimulatedAnnotator(by_digits, temperature=temperature), "pairwise", "0", str(difference), choice=1)
    assert found == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / MANY))


def test_rankings_follow_plackett_and_luce() -> None:
    scores = [0.0, 1.0, 0.5]
    annotator = SimulatedAnnotator(by_digits, temperature=1.0)
    found = Counter(
        tuple(annotator(task("ranking", *map(str, scores), i=i)).value["order"])  # type: ignore[index]
        for i in range(1, MANY + 1)
    )
    for order in itertools.permutations(range(3)):
        worth = [math.exp(scores[i]) for i in order]
        probability = worth[0] / sum(worth) * worth[1] / (worth[1] + worth[2])
        assert found[order] / MANY == pytest.approx(probability, abs=0.03)


def test_a_bias_favours_the_side_shown_first_whichever_it_is() -> None:
    annotator = SimulatedAnnotator(by_digits, bias=1.0)
    pair = ("text 0.4", "text 0.6")
    assert annotator(task("pairwise", *pair, sides=(0, 1))).value["choice"] == 0  # type: ignore[index]
    assert annotator(task("pairwise", *pair, sides=(1, 0))).value["choice"] == 1  # type: ignore[index]


def test_a_length_bias_favours_long_texts() -> None:
    long, short = "word " * 100 + "0", "1"
    assert SimulatedAnnotator(by_digits)(task("pairwise", long, short)).value["choice"] == 1  # type: ignore[index]
    biased = SimulatedAnnotator(by_digits, length_bias=0.5)
    assert biased(task("pairwise", long, short)).value["choice"] == 0  # type: ignore[index]


def test_equal_and_nearly_equal_scores_are_ties() -> None:
    tie = {"choice": None, "strength": 0}
    assert SimulatedAnnotator(by_digits)(task("pairwise", "1", "1")).value == tie
    assert SimulatedAnnotator(by_digits, tie_margin=0.3)(task("pairwise", "1", "1.2")).value == tie
    assert SimulatedAnnotator(by_digits, tie_margin=0.1)(task("pairwise", "1", "1.2")).value != tie


def test_ratings_are_quantiles_of_the_scores() -> None:
    scores = np.random.default_rng(0).standard_normal(2000)
    ratings = [SimulatedAnnotator(by_digits)(task("rating", repr(float(score)))).value["rating"] for score in scores]  # type: ignore[index]
    assert np.all(np.diff(np.array(ratings)[np.argsort(scores)]) >= 0), "a higher score never has a lower rating"
    assert np.allclose([ratings.count(level) / 2000 for level in range(1, 6)], 0.2, atol=0.03)
    reference = [10.0, 20.0, 30.0, 40.0]
    halves = SimulatedAnnotator(by_digits, scale=(0, 1), reference=reference)
    assert [halves(task("rating", text)).value for text in ("24", "26")] == [{"rating": 0}, {"rating": 1}]
    assert [halves(task("thumbs", text)).value for text in ("24", "26")] == [{"up": False}, {"up": True}]


def test_corrections_come_from_a_rewriter_or_the_better_alternative() -> None:
    rewriting = SimulatedAnnotator(by_digits, rewriter=lambda prompt, text: f"{prompt}: {text}!")
    assert rewriting(task("correction", "hm 1")).value == {"text": "say: hm 1!"}
    alternatives = {"alternatives": ["better 2", "worse 0"]}
    assert SimulatedAnnotator(by_digits)(task("correction", "hm 1", meta=alternatives)).value == {"text": "better 2"}
    blank = SimulatedAnnotator(by_digits, rewriter=lambda prompt, text: " ")
    assert blank(task("correction", "hm 1")).value is None, "a blank correction is none"


def test_flags_come_from_a_callable() -> None:
    flagging = SimulatedAnnotator(by_digits, flagger=lambda prompt, text: ["hate"] if "bad" in text else [])
    assert flagging(task("flags", "bad 1")).value == {"harms": ["hate"]}
    assert flagging(task("flags", "good 1")).value == {"harms": []}


def test_a_spammer_answers_without_a_look_at_the_texts() -> None:
    spammer = SimulatedAnnotator(by_digits, clicks_at_random=True, harms=("hate",))
    assert share_of(spammer, "pairwise", "0", "100", choice=1) == pytest.approx(0.5, abs=0.03)
    assert share_of(spammer, "rating", "100", rating=5) == pytest.approx(0.2, abs=0.03)
    assert share_of(spammer, "flags", "100", harms=["hate"]) == pytest.approx(0.5, abs=0.03)


def test_skips_have_their_share() -> None:
    lazy = SimulatedAnnotator(by_digits, skip_rate=0.3)
    skipped = [lazy(task("thumbs", "1", i=i)).value is None for i in range(1, MANY + 1)]
    assert np.mean(skipped) == pytest.approx(0.3, abs=0.03)


def test_an_answer_depends_on_the_seed_and_the_item_alone() -> None:
    def answers(seed: int) -> list[Any]:
        annotator = SimulatedAnnotator(by_digits, temperature=5.0, seed=seed)
        return [annotator(task("pairwise", "0", "1", i=i)).value for i in range(1, 40)]

    assert answers(0) == answers(0)
    assert answers(0) != answers(1)


@pytest.mark.parametrize("scores", [[1.0], [1.0, math.nan], [1.0, 2.0, 3.0]])
def test_a_broken_scorer_is_named(scores: list[float]) -> None:
    broken = SimulatedAnnotator(lambda prompts, completions: scores, "ada")
    with pytest.raises(ValueError, match=r"scorer of annotator 'ada'.*item 7.*one finite number each"):
        broken(task("pairwise", "0", "1", i=7))


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"temperature": math.nan}, {"skip_rate": 1.5}])
def test_what_no_annotator_can_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SimulatedAnnotator(by_digits, **wrong)  # type: ignore[arg-type]


# Crowds and the store


def test_a_crowd_has_its_share_of_spammers_and_scores_a_text_once() -> None:
    asked: list[str] = []

    def scorer(prompts: list[str], completions: list[str]) -> list[float]:
        asked.extend(completions)
        return by_digits(prompts, completions)

    crowd = simulated_crowd(scorer, 10, 0.3, seed=1, temperature=1.0)
    assert sum(annotator.clicks_at_random for annotator in crowd) == 3
    assert len({annotator.name for annotator in crowd}) == len({annotator.seed for annotator in crowd}) == 10
    for annotator in crowd:
        annotator(task("pairwise", "0", "1"))
    assert asked == ["0", "1"]


def test_a_scorer_gets_a_conversation_as_messages() -> None:
    asked: list[Any] = []

    def scorer(prompts: list[Any], completions: list[Any]) -> list[float]:
        asked.extend(zip(prompts, completions, strict=True))
        return [float(len(completion[0]["content"])) for completion in completions]

    prompt = [{"role": "user", "content": "say"}]
    for annotator in simulated_crowd(scorer, 2, 0.0):
        answer = annotator(task("pairwise", "yes", "no", meta={"messages": prompt})).value
        assert answer is not None and answer["choice"] == 0
    assert asked == [(prompt, [{"role": "assistant", "content": text}]) for text in ("yes", "no")], "each once"


def test_annotators_take_turns_until_every_item_has_its_judgements(store: FeedbackStore) -> None:
    store.add_items([NewItem("pairwise", "say", (f"{i}", f"{i + 1}"), overlap=3) for i in range(8)])
    crowd = simulated_crowd(by_digits, 4, 0.0)
    assert annotate(store, crowd) == 24
    progress = store.progress()
    assert (progress.finished, progress.judgements) == (8, 24)
    given = Counter(judgement.annotator for judgement in store.judgements())
    assert set(given.values()) == {6}, "everybody has done as much"
    assert all(judgement.value == {"choice": 1, "strength": 2} for judgement in store.judgements())
    assert annotate(store, crowd) == 0


def test_all_kinds_go_through_the_store(store: FeedbackStore) -> None:
    pairs = {"pairwise": ("1", "2"), "ranking": ("1", "2", "3")}
    kinds = ("pairwise", "ranking", "rating", "thumbs", "correction", "flags")
    store.add_items([NewItem(kind, "say", pairs.get(kind, ("1",)), overlap=2) for kind in kinds])
    crowd = simulated_crowd(by_digits, 2, 0.5, harms=store.settings.harms)
    assert annotate(store, crowd) == 12
    assert store.progress().finished == 6


def test_skipped_items_go_to_the_others(store: FeedbackStore) -> None:
    store.add_items([NewItem("thumbs", "say", (str(i),)) for i in range(6)])
    never = SimulatedAnnotator(by_digits, "never", skip_rate=1.0)
    always = SimulatedAnnotator(by_digits, "always")
    annotate(store, [never, always])
    assert [judgement.annotator for judgement in store.judgements()] == ["always"] * 6
    assert store.progress().finished == 6


def test_a_limit_ends_the_work(store: FeedbackStore) -> None:
    store.add_items([NewItem("thumbs", "say", (str(i),)) for i in range(6)])
    assert annotate(store, simulated_crowd(by_digits, 2), limit=3) == 3
    assert work(store, "ada", SimulatedAnnotator(by_digits), limit=2) == 2
    assert store.progress().judgements == 5


def test_work_gives_a_task_back_when_the_annotator_stops_or_fails(store: FeedbackStore) -> None:
    store.add_items([NewItem("thumbs", "say", ("1",))])
    assert work(store, "ada", lambda task: None) == 0
    with pytest.raises(ValueError, match="up"):
        work(store, "ada", lambda task: Response({"up": "yes"}))
    with pytest.raises(ZeroDivisionError):
        work(store, "ada", lambda task: Response({"up": 1 / 0 > 0}))
    assert work(store, "bob", SimulatedAnnotator(by_digits)) == 1, "nobody else holds it"


def test_an_answer_that_comes_too_late_is_not_counted(tmp_path: Path, clock: Any) -> None:
    with FeedbackStore(tmp_path / "feedback.db", clock=clock) as store:
        store.add_items([NewItem("thumbs", "say", ("1",))])

        def slowly(task: Assignment) -> Response:
            clock.forward(store.settings.lease_seconds + 1)
            assert work(store, "quick", SimulatedAnnotator(by_digits)) == 1
            return Response({"up": True})

        assert work(store, "slow", slowly) == 0
        assert [judgement.annotator for judgement in store.judgements()] == ["quick"]


def test_one_annotator_alone_cannot_give_two_judgements_of_an_item(store: FeedbackStore) -> None:
    store.add_items([NewItem("thumbs", "say", ("1",), overlap=2)])
    assert annotate(store, [SimulatedAnnotator(by_digits)]) == 1
    assert store.progress().finished == 0


def by_length(prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
    return [float(len(text)) for text in completions]


ASKED = (
    Question("helpful", "?", "rating", scale=(1, 3), each=True),
    Question("short", "?", "choice"),
    Question("coarse", "?", "choice", grades=3),
    Question("whole", "?", "rating"),
    Question("topic", "?", "labels", labels=("a", "b")),
    Question("topics", "?", "labels", labels=("a", "b"), multiple=True),
    Question("why", "?", "text", when={"topic": ("a",)}),
    Question("faults", "?", "spans", labels=("bad",), required=False),
)


def test_own_questions_are_answered_by_the_scores_of_their_scorer(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        store.update_settings(questions=ASKED, next_item="age")
        store.add_items([NewItem("pairwise", "p", ("x" * 5, "y")), NewItem("questions", "p", ("y", "x" * 9, "z" * 3))])
        shorter = lambda prompts, completions: [-float(len(text)) for text in completions]  # noqa: E731
        [ada] = simulated_crowd(by_length, 1, 0, scorers={"short": shorter})
        assert annotate(store, [ada]) == 2
        pair, three = store.judgements()
    assert (pair.value, three.value) == ({"choice": 0, "strength": 3}, {})
    assert pair.answers["helpful"] == [3, 3] and pair.answers["short"] == {"choice": 1, "strength": 3}
    assert pair.answers["coarse"] == {"choice": 0, "strength": 1}
    assert three.answers["helpful"] == [3, 3, 3] and "short" not in three.answers
    for judgement in (pair, three):
        assert ("why" in judgement.answers) == (judgement.answers["topic"] == "a")
        assert "faults" not in judgement.answers and judgement.answers["topics"]


def test_own_questions_change_no_other_answer_and_spammers_draw_them(tmp_path: Path) -> None:
    found = []
    for questions in ((), ASKED):
        with FeedbackStore(tmp_path / f"{len(questions)}.db", seed=0) as store:
            store.update_settings(questions=questions)
            store.add_items([NewItem("pairwise", "p", ("x", "y")) for _ in range(40)])
            annotate(store, simulated_crowd(by_length, 2, 0.5, temperature=1.0, seed=3))
            found.append(store.judgements())
    assert [judgement.value for judgement in found[0]] == [judgement.value for judgement in found[1]]
    drawn = {judgement.answers["whole"] for judgement in found[1]}
    assert drawn == {1, 2, 3, 4, 5}


def test_a_required_text_or_mark_is_given_where_there_can_be_one(tmp_path: Path) -> None:
    asked = (Question("why", "?", "text"), Question("faults", "?", "spans", labels=("bad",)))
    with FeedbackStore(tmp_path / "feedback.db") as store:
        store.update_settings(questions=asked)
        store.add_items([NewItem("thumbs", "p", ("text",))])
        annotate(store, [SimulatedAnnotator(by_length)])
        [judgement] = store.judgements()
        store.add_items([NewItem("thumbs", "p", ("",))])
        annotate(store, [SimulatedAnnotator(by_length, "other")])
        assert store.judgements(include_skips=True)[-1].value is None, "no text to mark: a skip, as people do"
    span = {"completion": 0, "start": 0, "end": 4, "label": "bad"}
    assert judgement.answers == {"why": "simulated", "faults": [span]}
