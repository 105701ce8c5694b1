"""`rlhf feedback judge` and `rlhf feedback winrate`: models answer, are checked, and are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("sqlalchemy", reason='the store needs pip install "rlhf-envs[web]"')

from agents.cli import app
from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.annotating import Response, work
from tests.rlhf_envs.rewards.ai_judge.judges import by_good, judging, texts_of, write_judge

STORE = "feedback.db"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def feedback(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["feedback", *arguments], env={"COLUMNS": "250"})
    assert result.exit_code == code, result.output
    return str(result.output)


def fill(n: int = 6, people: int = 0) -> None:
    """Pairs, a rating, a thumb and a correction; people who choose the text with more "good" answer them."""
    texts = ("good film", "bad film")
    policies = ["new", "old"]
    pairs = [
        NewItem("pairwise", f"p{i}", texts[:: (-1) ** i], meta={"policies": policies[:: (-1) ** i]}) for i in range(n)
    ]
    one = [NewItem("rating", "r", ("good good",)), NewItem("thumbs", "t", ("bad",)), NewItem("correction", "c", ("x",))]

    def answer(task: Any) -> Response:
        item = task.item
        values: dict[str, dict[str, Any]] = {
            "rating": {"rating": 3},
            "thumbs": {"up": False},
            "correction": {"text": "y"},
        }
        if item.kind == "pairwise":
            return Response({"choice": int("good" in item.completions[1]), "strength": 1})
        return Response(values[item.kind])

    with FeedbackStore(STORE, seed=0) as store:
        ids = store.add_items([*pairs, *one])
        if people:
            store.set_overlap(ids, people, by="test", reason="several people")
        for k in range(people):
            work(store, f"person-{k}", answer)


def judgements() -> list[Any]:
    with FeedbackStore(STORE) as store:
        return store.judgements(include_skips=True)


def test_a_judge_answers_as_an_annotator_once() -> None:
    fill()
    with judging() as server:
        file = str(write_judge(Path(), server.url))
        said = feedback("judge", "--judge", file, "-o", "done.json")
        assert "9 answers, 0 without a verdict and 0 that no judge can answer skipped (16 requests" in said
        name = json.loads(Path("done.json").read_text())["judges"][0]["annotator"]
        found = judgements()
        assert {one.annotator for one in found} == {name} and name.startswith("ai:j@") and len(found) == 9
        assert "0 answers" in feedback("judge", "--judge", file) and len(judgements()) == 9
        assert len(server.bodies) == 16, "nothing is asked again"
    chosen = [one for one in found if one.kind == "pairwise"]
    assert [one.value["choice"] for one in sorted(chosen, key=lambda one: one.item_id)] == [0, 1] * 3
    assert {one.kind: one.value for one in found if one.kind in ("rating", "thumbs")} == {
        "rating": {"rating": 3},
        "thumbs": {"up": False},
    }
    assert "Verdict" in chosen[0].comment
    feedback("export", "sft.jsonl", "--format", "sft")
    assert '{"prompt": "c", "completion": "good\\nfilm"}' in Path("sft.jsonl").read_text(), "a revision, to learn from"
    with FeedbackStore(STORE) as store:
        assert [entry.action for entry in store.audit()][-1] == "judge" or "judge" in [e.action for e in store.audit()]
        token = store.invite()
        with pytest.raises(ValueError, match="mark models that annotate"):
            store.register(token, "ai:me", "hash")


def test_a_limit_of_costs_keeps_what_was_answered() -> None:
    fill()
    with judging() as server:
        file = str(write_judge(Path(), server.url, max_requests=5, concurrency=1))
        said = feedback("judge", "--judge", file, code=1)
        assert "max_requests=5 is reached (5 requests, 500 tokens" in said and ": 0 answers" not in said
        stored = len(judgements())
        assert 0 < stored < 9 and len(server.bodies) == 5
        for _ in range(2):
            feedback("judge", "--judge", file, code=1)
        said = feedback("judge", "--judge", file)
        assert len(server.bodies) == 16 and len(judgements()) == 9, "a cached answer costs nothing"


def test_a_limit_of_answers_asks_about_no_more() -> None:
    fill()
    with FeedbackStore(STORE) as store:
        kinds = [item.kind for item in store.queue()[:2]]
    with judging() as server:
        said = feedback("judge", "--judge", str(write_judge(Path(), server.url)), "--limit", "2")
        assert "2 answers" in said and len(judgements()) == 2
        assert len(server.bodies) == sum({"pairwise": 2, "correction": 2}.get(kind, 1) for kind in kinds)


def test_no_more_finished_items_are_opened_again_than_the_limit_leaves() -> None:
    with FeedbackStore(STORE) as store:
        store.add_items([NewItem("pairwise", f"p{i}", ("good", "bad")) for i in range(4)])
        work(store, "person", lambda task: Response({"choice": 0, "strength": 1}), limit=2)
    with judging() as server:
        feedback("judge", "--judge", str(write_judge(Path(), server.url)), "--finished", "--limit", "3")
    with FeedbackStore(STORE) as store:
        assert sorted(item.overlap for item in store.items()) == [1, 1, 1, 2] and not store.queue()


def test_what_a_judge_leaves_unanswered_is_not_asked_of_people() -> None:
    with FeedbackStore(STORE) as store:
        store.add_items([NewItem("pairwise", f"p{i}", ("good", "bad")) for i in range(4)])
        work(store, "person", lambda task: Response({"choice": 0, "strength": 1}))
        store.add_items([NewItem("pairwise", "open", ("good", "bad"))])
    with judging() as server:
        file = str(write_judge(Path(), server.url, max_requests=5, concurrency=1))
        assert "max_requests=5 is reached" in feedback("judge", "--judge", file, "--finished", code=1)
    with FeedbackStore(STORE) as store:
        answered = {one.item_id for one in store.judgements(include_skips=True) if one.annotator.startswith("ai:")}
        assert 0 < len(answered) < 5
        assert {item.id for item in store.queue()} <= {item.id for item in store.items() if item.prompt == "open"}
        overlaps = {item.id: item.overlap for item in store.items() if item.prompt != "open"}
        assert overlaps == {item_id: 2 if item_id in answered else 1 for item_id in overlaps}


def test_a_limited_check_is_of_what_people_answered() -> None:
    with FeedbackStore(STORE) as store:
        ids = store.add_items([NewItem("pairwise", f"p{i}", ("good", "bad")) for i in range(3)])
        store.set_priority(ids[2:], -1.0, by="test", reason="comes last")
    with judging() as server:
        file = str(write_judge(Path(), server.url))
        feedback("judge", "--judge", file, "--limit", "2")
        with FeedbackStore(STORE) as store:
            assert work(store, "person", lambda task: Response({"choice": 0, "strength": 1})) == 1
        assert "agrees with people" in feedback("judge", "--judge", file, "--check", "--limit", "1")


def test_an_answer_without_a_verdict_is_a_skip() -> None:
    fill(2)
    with judging(lambda question: "Trains!" if "RESPONSE A" in texts_of(question) else by_good(question)) as server:
        said = feedback("judge", "--judge", str(write_judge(Path(), server.url)))
    assert "3 answers, 2 without a verdict and 0 that no judge can answer skipped" in said
    skipped = [one for one in judgements() if one.kind == "pairwise"]
    assert all(one.value is None and one.comment.startswith("no verdict") for one in skipped)


OWN = [
    {"name": "clear", "text": "Is it clear?", "type": "rating", "each": True, "scale": [1, 3]},
    {"name": "tone", "text": "Which tone?", "type": "labels", "labels": ["kind", "rude"]},
    {"name": "why", "text": "Why rude?", "type": "text", "when": {"tone": ["rude"]}},
    {"name": "flaws", "text": "Mark flaws.", "type": "spans", "labels": ["untrue"], "required": False},
    {"name": "better", "text": "Which is clearer?", "type": "choice", "required": False},
]


def by_question(question: str) -> str:
    """Answer the questions of OWN: texts with "bad" are unclear, rude, and wrong."""
    texts = texts_of(question)
    said = " ".join(text for name, text in texts.items() if name != "PROMPT")
    if "Is it clear?" in question:
        return f"Rating: {1 if 'bad' in said else 3}"
    if "Which tone?" in question:
        return f"Answer: {2 if 'bad' in said else 1}"
    if "Why rude?" in question:
        return " It says bad. "
    if "Mark flaws." in question:
        return 'Mark 1: "bad"' if "bad" in texts["RESPONSE"] else "Marks: none"
    if "Which is clearer?" in question:
        return "Verdict: A"
    return by_good(question)


def test_rankings_flags_and_the_projects_own_questions_are_answered() -> None:
    with FeedbackStore(STORE, seed=0) as store:
        store.update_settings(harms=["hate", "privacy"], questions=OWN)
        store.add_items(
            [
                NewItem("ranking", "p", ("bad", "good good", "good")),
                NewItem("flags", "p", ("full of hate",)),
                NewItem("questions", "p", ("a bad one", "a good one")),
            ]
        )
    with judging(by_question) as server:
        said = feedback("judge", "--judge", str(write_judge(Path(), server.url)))
    assert "3 answers, 0 without a verdict and 0 that no judge can answer skipped (" in said
    found = {one.kind: one for one in judgements()}
    assert found["ranking"].value == {"order": [1, 2, 0]} and found["flags"].value == {"harms": ["hate"]}
    assert found["flags"].answers == {"clear": [3], "tone": "kind"}
    assert found["questions"].value == {} and found["questions"].answers == {
        "clear": [1, 3],
        "tone": "rude",
        "why": "It says bad.",
        "flaws": [{"completion": 0, "start": 2, "end": 5, "label": "untrue"}],
        "better": {"choice": None, "strength": 0},  # it prefers the first text in both orders
    }
    assert "tone: Answer: 2" in found["questions"].comment


def test_a_required_question_without_a_verdict_skips_and_an_optional_one_is_left_out() -> None:
    with FeedbackStore(STORE, seed=0) as store:
        store.update_settings(questions=OWN[1:])
        store.add_items([NewItem("flags", "p", (text,)) for text in ("good", "bad")])

    def answer(question: str) -> str:
        if "Mark flaws." in question or ("Which tone?" in question and "bad" in texts_of(question)["RESPONSE"]):
            return "Trains!"
        return by_question(question)

    with judging(answer) as server:
        said = feedback("judge", "--judge", str(write_judge(Path(), server.url)), "-o", "done.json")
    assert "1 answers, 1 without a verdict and 0 that no judge can answer skipped, 1 optional questions" in said
    assert json.loads(Path("done.json").read_text())["judges"][0]["usage"]["failures"] == 3
    assert [(one.value, one.answers) for one in judgements()] == [({"harms": []}, {"tone": "kind"}), (None, {})]


def test_a_check_has_rankings_flags_and_own_questions() -> None:
    with FeedbackStore(STORE, seed=0) as store:
        store.update_settings(harms=["hate", "privacy"], questions=OWN[1:2])
        ids = store.add_items(
            [NewItem("ranking", f"p{i}", ("bad", "good")) for i in range(3)]
            + [NewItem("flags", f"p{i}", ("hate" if i else "good",)) for i in range(3)]
        )
        store.set_overlap(ids, 2, by="test", reason="two people")
        for person in ("ann", "bob"):
            work(
                store,
                person,
                lambda task: Response(
                    {"order": [1, 0]} if task.item.kind == "ranking" else {"harms": []}, answers={"tone": "rude"}
                ),
            )
    with judging(by_question) as server:
        said = feedback("judge", "--judge", str(write_judge(Path(), server.url)), "--check", "-o", "check.json")
    checks = {one["kind"]: one for one in json.loads(Path("check.json").read_text())["judges"][0]["checks"]}
    assert (checks["ranking"]["agreement"], checks["ranking"]["consistent"]) == (1, 1)
    assert checks["flags"]["agreement"] == 1 / 3, "of the votes on hate, which the judge alone has flagged, twice"
    tone = checks["question tone"]
    assert (tone["items"], tone["agreement"], tone["failed"]) == (6, 0.5, 0) and "question tone" in said


def test_several_judges_give_soft_labels() -> None:
    fill(people=1)
    with judging() as server, judging(lambda question: "Verdict: tie\nRating: 3") as other:
        files = [
            str(write_judge(Path(), server.url)),
            str(write_judge(Path(), other.url, "b.yml", name="b", model="k")),
        ]
        assert "0 answers" in feedback("judge", "--judge", files[0]), "people have answered everything"
        feedback("judge", "--judge", files[0], "--judge", files[1], "--finished")
        said = feedback("judge", "--judge", files[0], "--judge", files[1], "--check", "-o", "check.json")
    feedback("export", "pairs.jsonl", "--how", "soft", "--kind", "pairwise")
    rows = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and {row["chosen"] for row in rows} == {"good film"}
    assert {round(row["probability"], 3) for row in rows} == {round(2.5 / 3, 3)}, "a person, a judge, and a tie"
    assert "of the judges among each other, pairwise" in said
    assert json.loads(Path("check.json").read_text())["judges_alpha"]["pairwise"] < 0.5


def test_a_check_tells_a_good_judge_from_one_that_prefers_the_first() -> None:
    fill(20, people=2)
    before = len(judgements())
    with judging() as server, judging(lambda _: "Verdict: A\nRating: 1") as other:
        good, first = write_judge(Path(), server.url), write_judge(Path(), other.url, "b.yml", name="b")
        said = feedback("judge", "--judge", str(good), "--judge", str(first), "--check", "-o", "check.json")
    assert len(judgements()) == before and "same when swapped" in said
    found = [
        {check["kind"]: check for check in one["checks"]}
        for one in json.loads(Path("check.json").read_text())["judges"]
    ]
    right, wrong = (one["pairwise"] for one in found)
    assert (right["agreement"], right["alpha"], right["consistent"], right["first"]) == (1, 1, 1, 0.5)
    assert (wrong["agreement"], wrong["consistent"], wrong["first"]) == (0, 0, 1) and wrong["alpha"] < 0.1
    assert right["people_alpha"] == 1 and right["items"] == 20 and found[0]["rating"]["agreement"] == 1


def test_a_check_needs_peoples_answers() -> None:
    fill()
    with judging() as server:
        file = str(write_judge(Path(), server.url))
        assert "people have answered no pairwise" in feedback("judge", "--judge", file, "--check", code=2)
        feedback("judge", "--judge", file)
        assert "people have answered no pairwise" in feedback("judge", "--judge", file, "--check", code=2)
    assert "give a judge: --judge FILE.yml" in feedback("judge", code=2)


def test_win_rates_come_from_people_or_judges() -> None:
    fill(20, people=2)
    said = feedback("winrate", "new", "old", "--by", "people", "-o", "rates.json", "--resamples", "200")
    assert "new wins against old" in said and "95% intervals over prompts and annotators" in said
    (pair,) = json.loads(Path("rates.json").read_text())["pairs"]
    assert (pair["rate"], pair["n"], pair["prompts"], pair["ties"]) == (1.0, 40, 20, 0)
    with judging(lambda _: "Verdict: A") as server:
        feedback("judge", "--judge", str(write_judge(Path(), server.url, max_failures=1.0)), "--finished")
    said = feedback("winrate", "old", "new", "--by", "judges", "--resamples", "200")
    assert "old and new: undecided, the interval holds 0.5" in said and "prompts alone: ai:j@" in said
    assert "nobody judged a text of other: there are new, old" in feedback("winrate", "other", "new", code=2)


def test_win_rates_come_from_a_file() -> None:
    row = {"model_a": "a", "model_b": "b", "winner": "model_a", "judge": "j"}
    rows = [{**row, "prompt": f"p{i}", "winner": "model_a" if i % 3 else "tie"} for i in range(12)]
    Path("rows.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    assert "0.833 (" in feedback("winrate", "--rows", "rows.jsonl", "--resamples", "200")
    Path("rows.jsonl").write_text(json.dumps({**row, "winner": "c"}))
    assert "rows.jsonl:1: 'winner' must be one of model_a" in feedback("winrate", "--rows", "rows.jsonl", code=2)
