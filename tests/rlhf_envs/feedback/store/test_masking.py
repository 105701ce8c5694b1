"""Private data is masked as it comes into a store whose settings ask for it, on both databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

pytest.importorskip("phonenumbers")
pytest.importorskip("stdnum")

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback import masking as masking_module
from rlhf_envs.feedback.formats.importing import import_file
from rlhf_envs.feedback.formats.rehearsing import try_import
from rlhf_envs.feedback.store.schema import metadata
from rlhf_envs.feedback.store.training import answer_training, next_training
from rlhf_envs.privacy import PrivacyError

MAIL = "anna@example.com"
QUESTIONS = [
    {"name": "why", "type": "text", "text": "Why?", "required": False},
    {"name": "tone", "type": "labels", "text": "Tone?", "labels": [MAIL, "calm"], "required": False},
    {"name": "bad", "type": "spans", "text": "Mark it.", "labels": ["untrue"], "field": "both", "required": False},
]


@pytest.fixture
def store(store_url: str, clock: Any) -> Iterator[FeedbackStore]:
    with FeedbackStore(store_url, seed=0, clock=clock) as store:
        store.update_settings(mask_private=True, questions=QUESTIONS)
        store.add_annotator("ann")
        store.add_annotator("root", "admin")
        yield store


def everything(store: FeedbackStore) -> str:
    with store._database.read() as connection:
        rows = [
            tuple(row)
            for table in metadata.sorted_tables
            if table.name not in ("settings", "versions")
            for row in connection.execute(sa.select(table))
        ]
    return json.dumps(rows, default=str)


def test_admins_reasons_are_masked_in_the_audit(store: FeedbackStore) -> None:
    (item,) = store.add_items([NewItem("rating", "p", ("c",))])
    task = store.claim("ann")
    assert task is not None
    given = store.submit(task.id, "ann", {"rating": 3}, key="k")
    store.drop_judgement(given.id, by="root", reason=f"{MAIL} asked for it")
    store.set_priority([item], 2.0, by="root", reason=f"for {MAIL}")
    assert [entry.reason for entry in store.audit()] == ["for [EMAIL]", "[EMAIL] asked for it"]
    assert MAIL not in everything(store)


def test_questions_answers_and_comments_are_masked_and_counted(store: FeedbackStore) -> None:
    meta = {"notes": [MAIL], "images": []}
    gold = {"text": f"mail {MAIL}"}
    ids = store.add_items(
        [
            NewItem("correction", f"Who is {MAIL}?", (f"call +1 415 555 0132 or {MAIL}",), meta=meta),
            NewItem("correction", f"p {MAIL}", ("c",), gold=gold),
        ]
    )
    item = store.items()[0]
    assert (item.prompt, item.completions) == ("Who is [EMAIL]?", ("call [PHONE] or [EMAIL]",))
    assert item.meta == {"notes": ["[EMAIL]"], "images": []}
    task = store.claim("ann")
    assert task is not None
    answers = {"why": f"I am {MAIL}", "tone": "calm", "bad": [{**_span(0, 3), "completion": None, "note": MAIL}]}
    said = store.submit(task.id, "ann", {"text": f"see {MAIL}"}, key="k", comment=f"ask {MAIL}", answers=answers)
    assert (said.value, said.comment) == ({"text": "see [EMAIL]"}, "ask [EMAIL]")
    assert said.answers["why"] == "I am [EMAIL]" and said.answers["bad"][0]["note"] == "[EMAIL]"
    store.fix_judgement(said.id, {"text": f"fix {MAIL}"}, by="root", reason="typo", comment=MAIL)
    store.adjudicate(ids[0], {"text": f"final {MAIL}"}, by="root", comment=f"by {MAIL}")
    store.suggest({ids[0]: {"text": f"try {MAIL}"}}, source="model")
    assert "anna" not in everything(store)
    counts = [entry.after for entry in store.audit(action="mask private data")]
    assert counts == [{"email": 1}, {"email": 2}, {"email": 2}, {"email": 4}, {"email": 5, "phone": 1}]


def _span(start: int, end: int) -> dict[str, Any]:
    return {"completion": 0, "start": start, "end": end, "label": "untrue"}


def test_answers_of_the_training_are_masked_and_compared_masked(store: FeedbackStore) -> None:
    store.update_settings(training={"n_items": 1, "pass_mark": 1.0})
    gold, meta = {"text": f"mail {MAIL}"}, {"explanation": "so"}
    store.add_items([NewItem("correction", "p", ("c",), gold=gold, meta=meta)])
    task = next_training(store, "ann")
    assert task is not None
    assert answer_training(store, "ann", task.attempt, task.item.id, {"text": f"mail {MAIL}"}).is_right
    assert "anna@" not in everything(store)


def test_an_import_masks_moves_marked_pieces_and_knows_its_rows_again(store: FeedbackStore, tmp_path: Path) -> None:
    completion = f"Mail {MAIL} and rest"
    bad = [_span(0, 4), _span(5, 21), _span(7, 9), _span(22, 25)]
    judged = {"annotator": "ann", "value": {"rating": 4}, "comment": MAIL, "answers": {"bad": bad, "why": MAIL}}
    final = {"value": {"rating": 5}, "by": "root", "comment": MAIL}
    row = {"kind": "rating", "prompt": MAIL, "completion": completion, "judgements": [judged], "final": final}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    trial = try_import(store, path)
    assert trial.items[0].completions == ("Mail [EMAIL] and rest",) and store.items() == []
    done = import_file(store, path)
    assert done.masked == done.in_audit("rows.jsonl")["masked"] == {"email": 5}
    (item,), (judgement,) = store.items(), store.judgements()
    assert (item.prompt, item.completions) == ("[EMAIL]", ("Mail [EMAIL] and rest",))
    marked = [item.completions[0][span["start"] : span["end"]] for span in judgement.answers["bad"]]
    assert marked == ["Mail", "[EMAIL]", "and"]
    assert (judgement.comment, judgement.answers["why"]) == ("[EMAIL]", "[EMAIL]")
    again = import_file(store, path)
    assert (again.items, again.judgements) == (0, 0)
    assert "anna@" not in everything(store)


def test_without_the_setting_nothing_is_masked(store: FeedbackStore) -> None:
    store.update_settings(mask_private=False)
    store.add_items([NewItem("rating", MAIL, ("c",))])
    assert store.items()[0].prompt == MAIL
    assert store.audit(action="mask private data") == []


def test_the_setting_needs_the_extra(store: FeedbackStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise PrivacyError("masking needs phonenumbers: pip install 'rlhf-envs[privacy]'")

    store.update_settings(mask_private=False)
    monkeypatch.setattr(masking_module, "_masker", missing)
    with pytest.raises(ValueError, match=r"mask_private: .*pip install 'rlhf-envs\[privacy\]'"):
        store.update_settings(mask_private=True)
    assert not store.settings.mask_private
