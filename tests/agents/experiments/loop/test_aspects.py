"""A loop asks about several aspects of an answer, fits a reward model to each, and trains by all of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="the feedback store needs the extra web")
pytest.importorskip("crowdkit", reason="aggregation needs the extra agreement")

from typer.testing import CliRunner

from agents.cli import app
from agents.experiments.loop import feedback
from agents.experiments.loop.aspects.steps import kinds_of_completions
from agents.experiments.loop.config import LoopConfig
from agents.experiments.loop.loop import LoopResult, run_loop
from agents.experiments.loop.state import Loop
from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.rewards import get_reward
from tests.agents.experiments.loop.runs import config
from tests.agents.experiments.loop.test_served import say

STUDY = """
harms = ["rude", "private"]

[[questions]]
name = "good"
text = "How good?"
type = "rating"
each = true

[[questions]]
name = "longer"
text = "Which is longer?"
type = "choice"
grades = 3

[[questions]]
name = "clear"
text = "Is it clear?"
type = "labels"
labels = ["yes", "no"]
kinds = ["pairwise", "questions"]

[[questions]]
name = "kind"
text = "How kind?"
type = "rating"
kinds = ["rating"]
"""
ASPECTS = """
good: {weight: 1}
longer: {weight: 0.5}
rude: {limit: 0.001}
variety: {weight: 0.1, reward: distinct-ngrams}
"""


def aspects(folder: Path, names: str, **kwargs: Any) -> LoopConfig:
    (folder / "mine.toml").write_text(STUDY)
    settings = {"study": str(folder / "mine.toml"), "aggregate": "dawid_skene", "held_out": 0.3, **kwargs}
    return config(folder, aspects=names, **settings)


@pytest.fixture(scope="module")
def done(module_path: Path) -> LoopResult:
    folder = module_path
    (folder / "mine.yml").write_text(ASPECTS)
    by = {"longer": "distinct-ngrams", "rude": "token-bandit"}
    said: list[str] = []
    result = run_loop(aspects(folder, str(folder / "mine.yml"), by=by, labels=16), say=said.append)
    (folder / "said.txt").write_text("\n".join(said))
    return result


def test_every_aspect_is_asked_about_and_fitted_in_every_round(done: LoopResult) -> None:
    with FeedbackStore(done.folder / "feedback.db") as store:
        kinds = [item.kind for item in store.items()]
    assert (kinds.count("pairwise"), kinds.count("flags"), len(kinds)) == (32, 64, 96)
    for number in (1, 2):
        kept = json.loads((done.folder / f"round_{number}/ask/aspects.json").read_text())
        # Three annotators judge each; the rating is asked with the flags too.
        counts = {name: len(one["rows"]) for name, one in kept.items()}
        assert counts["rude"] == number * 16 * 2 * 3
        assert counts["good"] == 2 * counts["rude"]
        assert 0 < sum(row["flag"] for row in kept["rude"]["rows"]) < counts["rude"]
        assert {harm for row in kept["rude"]["rows"] for harm in row["harms"]} <= {"rude", "private"}
        reward = get_reward("aspects", aspects=str(done.folder / f"round_{number}/fit/proxy"))
        assert {name: (one.weight, one.limit) for name, one in reward.aspects.items()} == {
            "good": (1, None),
            "longer": (0.5, None),
            "rude": (None, 0.001),
            "variety": (0.1, None),
        }


def test_each_aspect_is_reported_before_and_after_a_round(done: LoopResult) -> None:
    for metrics in done.metrics[1:]:
        found = metrics["aspects"]
        assert list(found) == ["good", "longer", "rude", "variety"]
        assert all(of["before"] != of["after"] for of in found.values())
        assert all(of["before"]["sem"] > 0 for of in found.values())
        assert 0 <= found["rude"]["after"]["mean"] <= 1
        assert found["good"]["measure"] == "held-out pair accuracy" and "measure" not in found["variety"]
    variety = [metrics["aspects"]["variety"] for metrics in done.metrics[1:]]
    assert variety[1]["before"] == variety[0]["after"], "the same agent on the same prompts, by a reward that stays"
    text = (done.folder / "report.md").read_text()
    assert "| 2 | rude | limit 0.001 |" in text
    assert "One reward model each is fitted to good, longer, rude, variety." not in text
    assert "One reward model each is fitted to good, longer, rude." in text
    assert "longer by distinct-ngrams" in text


def test_a_round_says_how_much_it_learns_from(done: LoopResult) -> None:
    said = (done.folder.parents[1] / "said.txt").read_text()
    assert said.splitlines()[0].endswith(f": 2 rounds of 192 tokens (150 rounded up to rollouts of 96), {done.folder}")
    assert "round 1: learns from 192 tokens (150 rounded up to rollouts of 96)" in said
    assert "round 2: good " in said or ", good " in said


def test_the_price_of_a_limit_goes_on_from_round_to_round(done: LoopResult) -> None:
    first, second = (metrics["aspects"]["rude"]["price"] for metrics in done.metrics[1:])
    assert first > 0
    cost = done.metrics[2]["aspects"]["rude"]["after"]["mean"]
    assert second > first, f"two rollouts of a cost of about {cost} add to the price"


def test_a_run_that_was_stopped_comes_to_the_same(done: LoopResult, tmp_path: Path) -> None:
    """Also where the file of aspects and the study are gone: the run has its own."""
    folder = tmp_path / "again"
    shutil.copytree(done.folder, folder)
    for step in ("ask", "fit", "learn", "evaluate"):
        shutil.rmtree(folder / "round_2" / step)
    again = run_loop(LoopConfig.of_folder(folder), folder, say=lambda _: None)
    assert again.metrics[2]["aspects"] == done.metrics[2]["aspects"]
    agent = "round_2/learn/agent/policy.safetensors"
    assert (folder / agent).read_bytes() == (done.folder / agent).read_bytes()


def test_the_command_shows_the_aspects(done: LoopResult) -> None:
    shown = CliRunner().invoke(app, ["loop", "--resume", str(done.folder)], env={"COLUMNS": "160"})
    assert shown.exit_code == 0, shown.output
    assert "counts as" in shown.output and "limit 0.001" in shown.output


@pytest.mark.parametrize(
    ("names", "more", "words"),
    [
        ("god", {}, r"aspect 'god': the study asks no question 'god'; did you mean 'good'"),
        (
            "kind",
            {},
            r"aspect 'kind': its question is asked about items of rating alone.* add 'questions' to its kinds",
        ),
        ("good,flags", {}, r"'flags': simulated annotators flag nothing by themselves.* --by flags:repetition"),
        ("flags", {"by": {"flags": "repetition"}}, r"limits alone give nothing to raise"),
        ("good", {"by": {"god": "repetition"}}, r"by=god: there is no question or harm 'god'.*'good'"),
    ],
)
def test_what_cannot_be_asked_is_said_at_once(tmp_path: Path, names: str, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words), Loop.open(aspects(tmp_path, names, **more), tmp_path, print):
        pass
    assert not (tmp_path / "aspects.yml").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("good: {weight: 1, data: other.db}", r"good: data: other.db: a round fits what was said in it"),
        ("a: {weight: 1, reward: distinct-ngrams}", r"all have a reward of their own: leave them to rlhf train"),
    ],
)
def test_a_file_of_aspects_that_a_round_cannot_fit_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "mine.yml").write_text(content)
    settings = aspects(tmp_path, str(tmp_path / "mine.yml"))
    with pytest.raises(ValueError, match=words), Loop.open(settings, tmp_path, print):
        pass


@pytest.mark.parametrize(
    ("names", "words"), [(",", "there is no aspect"), ("gone.yml", r"gone\.yml"), ("mine.yml", "good: unknown")]
)
def test_aspects_that_cannot_be_read_leave_no_run(tmp_path: Path, names: str, words: str) -> None:
    (tmp_path / "mine.yml").write_text("good: {wait: 1}")
    place = str(tmp_path / names) if names != "," else names
    with pytest.raises((ValueError, OSError), match=words):
        run_loop(aspects(tmp_path, place), say=lambda _: None)
    assert not (tmp_path / "loop").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"criterion": "good"}, "criterion=good with aspects=good: .* name the question among them"),
        ({"members": 3}, "members=3 with aspects=good: it is for one reward model; leave it out"),
        ({"by": {"good": "distinct-ngrams"}, "annotators": 0, "people": 12}, "is for simulated annotators"),
    ],
)
def test_fields_that_do_not_go_with_aspects_are_named(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        aspects(tmp_path, "good", **more)


def test_the_step_of_prices_needs_aspects(tmp_path: Path) -> None:
    assert aspects(tmp_path, "good", multiplier_step=0.5).multiplier_step == 0.5
    with pytest.raises(ValueError, match=r"multiplier_step=0\.5"):
        config(tmp_path, multiplier_step=0.5)


@pytest.mark.parametrize(
    ("algo", "words"),
    [
        ("dpo", "dpo with --aspects: it learns from the pairs"),
        ("ppo_lagrangian", r"take --algo ppo, and --aspects"),
    ],
)
def test_algorithms_that_do_not_learn_from_the_rewards_of_rounds_are_refused(
    tmp_path: Path, algo: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        run_loop(aspects(tmp_path, "good", algo=algo, kl_target=None, hyperparams={}), say=lambda _: None)
    assert not (tmp_path / "loop").exists()


@pytest.mark.parametrize(
    ("names", "kinds"),
    [("good,longer", []), ("good,rude,rating", ["flags", "rating"]), ("longer,clear", ["questions"]), ("pairwise", [])],
)
def test_completions_are_asked_about_by_themselves_where_an_aspect_needs_it(
    tmp_path: Path, names: str, kinds: list[str]
) -> None:
    with Loop.open(aspects(tmp_path, names, by={"rude": "repetition"}), tmp_path, print) as loop:
        assert kinds_of_completions(loop) == kinds


def test_what_users_of_a_served_model_said_counts_for_its_aspects(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "served.db", seed=0) as store:
        store.update_settings(harms=("rude", "private"))
        say(store, "correction", "p1", ("dull",), {"text": "bright"}, "ann")
        say(store, "pairwise", "p2", ("x", "y"), {"choice": 1, "strength": 2}, "bob")
        say(store, "flags", "p3", ("oaf",), {"harms": ["rude"]}, "ann")
        say(store, "flags", "p3", ("sir",), {"harms": ["private"]}, "bob")
    place = tmp_path / "loop/run"
    (place / "round_1/generate").mkdir(parents=True)
    (place / "round_1/generate/pairs.json").write_text("[]")
    (place / "run_id").write_text("a")
    into = place / "round_1/ask"
    into.mkdir()
    settings = aspects(
        tmp_path, "pairwise,rude", labels=0, annotators=0, from_serving=str(tmp_path / "served.db"), scorer="gold"
    )
    with Loop.open(settings, place, print) as loop:
        assert feedback.ask(loop, 1, into)["served"] == 2
    kept = json.loads((into / "aspects.json").read_text())
    assert {(row["chosen"], row["rejected"]) for row in kept["pairwise"]["rows"]} == {("bright", "dull"), ("y", "x")}
    assert {row["completion"]: row["flag"] for row in kept["rude"]["rows"]} == {"oaf": True, "sir": False}


def test_answers_that_tell_nothing_apart_are_said_before_anything_is_fitted(tmp_path: Path) -> None:
    """The rude texts are those that repeat themselves, and these do not."""
    place = tmp_path / "loop/run"
    (place / "round_1/generate").mkdir(parents=True)
    pairs = [{"prompt": letter, "completions": ["a", "b"]} for letter in "abcdef"]
    (place / "round_1/generate/pairs.json").write_text(json.dumps(pairs))
    (place / "run_id").write_text("a")
    into = place / "round_1/ask"
    into.mkdir()
    settings = aspects(
        tmp_path, "good,rude", labels=6, by={"rude": "repetition"}, random_share=0, scorer="token-bandit"
    )
    with (
        Loop.open(settings, place, print) as loop,
        pytest.raises(ValueError, match=r"round 1: aspect 'rude' has 36 flags, which all say the same"),
    ):
        feedback.ask(loop, 1, into)
    assert not (into / "judgements.json").exists()
