"""TRL's own functions say whether what is exported is what TRL takes. Importing them takes seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.formats.exporting import export_file
from rlhf_envs.feedback.formats.importing import import_file
from rlhf_envs.feedback.simulated import annotate, simulated_crowd

pytestmark = pytest.mark.slow

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CONVERSATION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it good?"}]


@pytest.fixture(scope="module")
def trl() -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("trl.data_utils", reason='needs pip install "rlhf-envs[train]"')


@pytest.fixture
def store(empty_store: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(empty_store, seed=0) as store:
        store.add_items([NewItem("pairwise", f"p{i}", (f"yes {i}", f"no {i}")) for i in range(4)])
        store.add_items([NewItem("pairwise", "told", ("aa", "b"), meta={"messages": CONVERSATION})])
        store.add_items([NewItem("thumbs", f"p{i}", (f"yes {i}",)) for i in range(4)])
        annotate(store, simulated_crowd(lambda prompts, texts: [len(text) for text in texts], 2, 0.0))
        yield store


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    from rlhf_envs.models import resolve

    tokenizer = AutoTokenizer.from_pretrained(resolve("tiny"))
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_string_exports_are_trls_standard_format(
    trl: Any, store: FeedbackStore, tmp_path: Path, tokenizer: Any
) -> None:
    for format, columns in (
        ("preference", {"prompt", "chosen", "rejected"}),
        ("kto", {"prompt", "completion", "label"}),
    ):
        for row in export_file(store, tmp_path / "rows.jsonl", format).rows:
            assert columns <= row.keys()
            assert not trl.is_conversational(row)
            assert trl.maybe_apply_chat_template(row, tokenizer) == row
            assert trl.maybe_extract_prompt(row) == row


def test_conversational_exports_are_trls(trl: Any, store: FeedbackStore, tmp_path: Path, tokenizer: Any) -> None:
    rows = export_file(store, tmp_path / "rows.jsonl", "preference", conversational=True, kind="pairwise").rows
    for row in rows:
        assert trl.is_conversational(row)
        assert trl.maybe_extract_prompt(row) == row, "the prompt is explicit"
    first = trl.maybe_apply_chat_template({k: v for k, v in rows[0].items() if k != "annotator"}, tokenizer)
    assert first == {"prompt": "<user>p0</><assistant>", "chosen": "yes 0</>", "rejected": "no 0</>"}
    told = trl.maybe_apply_chat_template({k: v for k, v in rows[-1].items() if k != "annotator"}, tokenizer)
    assert told["prompt"] == "<system>Be brief.</><user>Is it good?</><assistant>"
    kto = export_file(store, tmp_path / "rows.jsonl", "kto", conversational=True).rows
    assert all(trl.is_conversational(row) and isinstance(row["label"], bool) for row in kto)


def test_preferences_unpair_to_the_same_rows_as_trls(trl: Any, store: FeedbackStore, tmp_path: Path) -> None:
    from datasets import Dataset

    pairs = export_file(store, tmp_path / "pairs.jsonl", "preference", kind="pairwise").rows
    ours = export_file(store, tmp_path / "kto.jsonl", "kto", kind="pairwise").rows
    theirs = trl.unpair_preference_dataset(Dataset.from_list(pairs)).to_list()

    def key(row: dict[str, Any]) -> str:
        return json.dumps(row, sort_keys=True)

    assert sorted(map(key, ours)) == sorted(map(key, theirs))


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"chosen": [*CONVERSATION, {"role": "assistant", "content": "Yes."}],
         "rejected": [*CONVERSATION, {"role": "assistant", "content": "No."}]},
        {"prompt": "Is it good?", "chosen": [*CONVERSATION[1:], {"role": "assistant", "content": "Yes."}],
         "rejected": [*CONVERSATION[1:], {"role": "assistant", "content": "No."}]},
    ],
)  # fmt: skip
def test_implicit_prompts_are_split_where_trl_splits_them(trl: Any, tmp_path: Path, row: dict[str, Any]) -> None:
    expected = trl.maybe_extract_prompt(row)
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with FeedbackStore(tmp_path / "implicit.db") as store:
        import_file(store, tmp_path / "rows.jsonl")
        conversational = not isinstance(row["chosen"], str)
        (found,) = export_file(store, tmp_path / "out.jsonl", "preference", conversational=conversational).rows
    assert {name: found[name] for name in ("prompt", "chosen", "rejected")} == expected
