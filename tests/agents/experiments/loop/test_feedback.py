"""People and simulated annotators in the loop: who is asked, how long the loop waits, and how far they agree."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import pytest

from agents.experiments.loop import feedback
from agents.experiments.loop.loop import LoopConfig, run_loop
from agents.experiments.loop.state import Loop
from agents.training.run import RunInterrupted, RunStopped
from tests.agents.experiments.loop.runs import config

if TYPE_CHECKING:
    from rlhf_envs.feedback import Task

pytest.importorskip("sqlalchemy", reason="the feedback store needs the extra web")
pytest.importorskip("crowdkit", reason="aggregation needs the extra agreement")


class Person(threading.Thread):
    """Someone who answers, at most n times, what the run in `folder` asks; by default always the same."""

    def __init__(self, name: str, folder: Path, n: int = 1000, skips: Callable[[Task], bool] = lambda _: False) -> None:
        super().__init__(daemon=True)
        self.who, self.place, self.n, self.skips = name, folder / "loop/run/feedback.db", n, skips
        self.stopped = threading.Event()
        self.start()

    def run(self) -> None:
        from rlhf_envs.feedback import FeedbackStore
        from rlhf_envs.feedback.annotating import Response, work_once

        while not self.place.exists():
            time.sleep(0.02)
        with FeedbackStore(self.place) as store:
            store.add_annotator(self.who)
            done = 0
            while done < self.n and not self.stopped.is_set():
                answered = work_once(
                    store, self.who, lambda task: Response(None if self.skips(task) else {"choice": 0}, seconds=1.5)
                )
                done += bool(answered)
                time.sleep(0.0 if answered else 0.02)

    def finish(self) -> None:
        self.stopped.set()
        self.join()


def ask_round(folder: Path, said: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
    """The step `ask` alone, of the first round of a run; returns its figures."""
    place = folder / "loop/run"
    pairs = [{"prompt": letter, "completions": ["a", "b"]} for letter in ascii_lowercase[: kwargs["labels"]]]
    for name, value in {
        "run_id": folder.name,
        "round_1/generate/pairs.json": json.dumps(pairs),
    }.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(value)
    into = place / "round_1/ask"
    into.mkdir(exist_ok=True)
    settings = config(folder, poll=0.02, scorer="token-bandit", **kwargs)
    with Loop.open(settings, place, (said if said is not None else []).append) as loop:
        return feedback.ask(loop, 1, into)


def test_one_person_is_enough_unless_more_are_wanted(tmp_path: Path) -> None:
    """She need not wait for anybody: the default patience is longer than this test may take."""
    ada = Person("ada", tmp_path)
    figures = ask_round(tmp_path, labels=8, people=8, annotators=0)
    ada.finish()
    assert (figures["judgements"], figures["by_people"]) == (8, 8)


def test_the_round_goes_on_when_nobody_who_labels_has_anything_left(tmp_path: Path) -> None:
    """Three judgements of each pair are wanted, and ada alone comes; the page has nothing more for her."""
    said: list[str] = []
    ada = Person("ada", tmp_path)
    figures = ask_round(tmp_path, said, labels=8, people=8, annotators=0, overlap=3, patience=0.3)
    ada.finish()
    assert figures["by_people"] == 8
    left = "round 1: 8 of 24 judgements; nothing is left for ada"
    assert f"{left}: it goes on in 0.3 s unless somebody else labels" in said
    assert said[-1] == f"{left}, and nobody else came: it goes on with these"


def test_a_pair_that_everybody_skips_is_not_waited_for(tmp_path: Path) -> None:
    said: list[str] = []
    people = [Person(name, tmp_path, skips=lambda task: task.item.prompt == "c") for name in ("ada", "bob")]
    figures = ask_round(tmp_path, said, labels=6, people=6, annotators=0, patience=0.3)
    for person in people:
        person.finish()
    assert figures["judgements"] == 5
    assert figures["skips"] in (1, 2)  # who never came to label is not waited for
    assert "nobody else came: it goes on with these" in said[-1]


def test_who_has_something_left_is_waited_for(tmp_path: Path) -> None:
    """However long it takes: bob has answered one of four pairs, and comes back after the patience has run out."""
    people = [Person("bob", tmp_path, n=1)]

    def others() -> None:
        people[0].join()
        people.append(Person("ada", tmp_path))
        time.sleep(1.0)
        people.append(Person("bob", tmp_path))

    coming = threading.Thread(target=others)
    coming.start()
    figures = ask_round(tmp_path, labels=4, people=4, annotators=0, overlap=2, patience=0.1)
    coming.join()
    for person in people:
        person.finish()
    assert figures["judgements"] == 8


def test_a_round_without_labels_can_still_be_labelled(tmp_path: Path) -> None:
    """All was skipped: the run ends with a message and not in silence, and goes on when somebody else has labelled."""
    settings: dict[str, Any] = dict(labels=4, people=4, annotators=0, patience=0.1)
    ada = Person("ada", tmp_path, skips=lambda _: True)
    with pytest.raises(ValueError, match=r"round 1: 0 of 4 pairs have a judgement.* label some more"):
        ask_round(tmp_path, **settings)
    ada.finish()
    Person("bob", tmp_path, n=4).join()
    assert ask_round(tmp_path, **settings)["judgements"] == 4


def test_people_are_waited_for_and_told_where_to_label(tmp_path: Path) -> None:
    """Two people give 7 of the 2 x 4 judgements that are wanted, which is enough; the rest is asked no more."""
    said: list[str] = []
    people = [Person(name, tmp_path, n) for name, n in (("ada", 4), ("bob", 3))]
    settings = config(tmp_path, rounds=1, labels=4, people=4, overlap=2, enough=0.875, poll=0.02, held_out=0.3)
    result = run_loop(settings, say=said.append)
    for person in people:
        person.finish()
    figures = result.metrics[1]
    assert (figures["judgements"], figures["by_people"], figures["people_seconds"]) == (7, 7, 10.5)
    assert "People labelled.\n" in (tmp_path / "loop/run/report.md").read_text()
    assert set(figures["reliability"]) == {"ada", "bob"}
    assert "planted" not in figures
    assert result.report["scorer"] is None
    store = tmp_path / "loop/run/feedback.db"
    assert any(f"rlhf feedback serve --store {store}" in text for text in said)
    assert "round 1: 0 of 7 judgements" in said
    from rlhf_envs.feedback import FeedbackStore

    with FeedbackStore(store) as opened:
        assert opened.progress().finished == 4
        assert opened.claim("bob") is None


def test_simulated_annotators_and_people_answer_their_own_pairs(tmp_path: Path) -> None:
    """Also who is at the page before the round begins: the simulated annotators' pairs are not there."""
    ada = Person("ada", tmp_path)
    figures = ask_round(tmp_path, labels=12, people=5, annotators=4)
    ada.finish()
    assert (figures["judgements"], figures["by_people"]) == (5 + 3 * 7, 5)
    snapshot = json.loads((tmp_path / "loop/run/round_1/ask/judgements.json").read_text())
    places = {item["id"]: item["meta"]["pair"] for item in snapshot["items"]}
    assert sorted(places.values()) == list(range(12))  # no two have one id
    judged = [(places[entry["item_id"]], entry["annotator"] == "ada") for entry in snapshot["judgements"]]
    assert sorted(judged) == [(place, True) for place in range(5)] + [(p, False) for p in range(5, 12) for _ in "123"]


def test_a_run_that_waits_for_people_goes_on_waiting_for_them(tmp_path: Path) -> None:
    """Stopped while it waits, it does not let simulated annotators answer instead; and it may ask for less."""
    said: list[str] = []

    def interrupt(text: str) -> None:
        said.append(text)
        if "of 5 judgements" in text:
            raise KeyboardInterrupt

    settings = config(tmp_path, rounds=1, people=5, annotators=4, overlap=1, poll=0.02)
    with pytest.raises(RunInterrupted):
        run_loop(settings, say=interrupt)
    assert any("resume it with --enough" in text for text in said)
    folder = tmp_path / "loop/run"
    ada = Person("ada", tmp_path, 3)
    result = run_loop(LoopConfig.of_folder(folder, LoopConfig(enough=0.6)), folder, say=lambda _: None)
    ada.finish()
    figures = result.metrics[1]
    assert (figures["judgements"], figures["by_people"]) == (10, 3)
    # One judgement a pair: nobody is compared with anybody.
    assert set(figures["reliability"].values()) == {None}
    text = (folder / "report.md").read_text()
    assert "| ada | – |" in text
    assert "with noise; the agent never meets it. People labelled too, 5 pairs a round.\n" in text


def test_simulated_annotators_do_not_answer_the_questions_of_others(tmp_path: Path) -> None:
    from rlhf_envs.feedback import FeedbackStore, NewItem

    place = tmp_path / "shared.db"
    with FeedbackStore(place) as store:
        store.add_items([NewItem("rating", "a", (" b",), source="somebody")])
    with pytest.raises(RunStopped, match=r"shared.db has 1 unfinished items .*'somebody'.* --store of its own"):
        run_loop(config(tmp_path, store=str(place)), say=lambda _: None)


def test_two_runs_may_share_a_store(tmp_path: Path) -> None:
    place = str(tmp_path / "shared.db")
    for name in ("one", "two"):
        assert ask_round(tmp_path / name, labels=4, store=place)["judgements"] == 12


def test_skips_cost_labels_and_are_counted(tmp_path: Path) -> None:
    figures = ask_round(tmp_path, labels=12, skip_rate=0.6)
    assert figures["skips"] > 0
    assert 0 < figures["judgements"] < 36
    snapshot = json.loads((tmp_path / "loop/run/round_1/ask/judgements.json").read_text())
    assert len(snapshot["judgements"]) == figures["judgements"] + figures["skips"]


def test_without_labels_there_is_nothing_to_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"round 1: 0 of 12 pairs have a judgement.* label some more"):
        ask_round(tmp_path, labels=12, skip_rate=0.999999)


def test_only_compared_annotators_have_a_reliability() -> None:
    from rlhf_envs.feedback import Item, Judgement

    now = datetime(2026, 1, 1)
    said = {1: ("ada", "bob"), 2: ("ada", "bob"), 3: ("cyd",)}
    items = [Item(i, "pairwise", f"{i}", (" a", " b"), "", "", {}, len(said[i]), None, 0.0, now) for i in said]
    value = {"choice": 0, "strength": 1}
    judgements = [
        Judgement(10 * i + k, i, who, "pairwise", value, 1.0, "", (0, 1), f"{i}{who}", now)
        for i, names in said.items()
        for k, who in enumerate(names)
    ]
    reliability = feedback._crowd_metrics(items, judgements, set(said))["reliability"]
    assert {name for name, value in reliability.items() if value is not None} == {"ada", "bob"}
    assert reliability["cyd"] is None


def test_agreement_is_that_of_the_feedback_page(tmp_path: Path) -> None:
    """A tie lies between the two sides, so that it disagrees less with either than they do with one another."""
    from rlhf_envs.feedback import FeedbackStore, NewItem
    from rlhf_envs.feedback.agreement import krippendorff_alpha

    with FeedbackStore(tmp_path / "ties.db") as store:
        store.add_items([NewItem("pairwise", f"{i}", (" a", " b"), overlap=3) for i in range(12)])
        for who, ties in (("ada", 0), ("bob", 1), ("cyd", 2)):
            store.add_annotator(who)
            while task := store.claim(who):
                tie = task.item.id % 4 < ties
                value = {"choice": None if tie else task.item.id % 2, "strength": 0 if tie else 1}
                store.submit(task.id, who, value, key=f"{who}{task.id}")
        items, judgements = store.items(), store.judgements()
        figures = feedback._crowd_metrics(items, judgements, {item.id for item in items[4:]})
    fresh, values = [item.id for item in items[4:]], {0: -1, None: 0, 1: 1}
    votes = [(e.item_id, e.annotator, values[e.value["choice"]]) for e in judgements if e.item_id in fresh]
    assert figures["agreement"] == pytest.approx(krippendorff_alpha(votes, "ordinal"))
    assert figures["agreement"] > krippendorff_alpha(votes, "nominal") + 0.1


STUDY = """
[[questions]]
name = "longer"
text = "Which is longer?"
type = "choice"
grades = 3

[[questions]]
name = "good"
text = "How good?"
type = "rating"
each = true
"""


def test_reward_models_are_fitted_to_a_criterion_of_the_study(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    settings = {"study": str(tmp_path / "study.toml"), "rounds": 1}
    result = run_loop(config(tmp_path, criterion="good", **settings), say=lambda _: None)
    snapshot = json.loads((result.folder / "round_1/ask/judgements.json").read_text())
    with_answers = {"choice", "strength"}
    assert {judgement["kind"] for judgement in snapshot["judgements"]} == {"pairwise"}
    assert all(set(judgement["value"]) == with_answers for judgement in snapshot["judgements"])
    from rlhf_envs.feedback import FeedbackStore

    with FeedbackStore(result.folder / "feedback.db") as store:
        stored = {judgement.id: judgement for judgement in store.judgements()}
    assert len(stored) == len(snapshot["judgements"])
    for judgement in snapshot["judgements"]:
        first, second = stored[abs(judgement["id"])].answers["good"]
        better = None if first == second else int(second > first)
        assert judgement["value"]["choice"] == better
    assert result.report["criterion"] == "good"
    assert "fitted to the answers to `good`, a question of the study" in (result.folder / "report.md").read_text()
    assert (result.folder / "study.toml").exists()
    (tmp_path / "study.toml").unlink()  # a run goes on with the study that it began with
    more = run_loop(LoopConfig.of_folder(result.folder, LoopConfig(rounds=2)), result.folder, say=lambda _: None)
    assert len(more.metrics) == 3


@pytest.mark.parametrize(
    ("criterion", "words"),
    [("god", "no criterion 'god'; did you mean 'good'"), ("tone", "criterion 'tone' .*says of no completion")],
)
def test_a_criterion_that_cannot_be_fitted_is_said_at_once(tmp_path: Path, criterion: str, words: str) -> None:
    (tmp_path / "study.toml").write_text(STUDY + '[[questions]]\nname = "tone"\ntext = "Tone?"\ntype = "text"\n')
    with pytest.raises(ValueError, match=words):
        run_loop(config(tmp_path, criterion=criterion, study=str(tmp_path / "study.toml")), say=lambda _: None)
    assert not (tmp_path / "loop").exists()
