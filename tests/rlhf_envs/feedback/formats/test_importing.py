from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.datasets import reading
from rlhf_envs.datasets.rows import read_pair
from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.feedback.formats.exporting import preference_rows
from rlhf_envs.feedback.formats.importing import Import, import_file

USER = {"role": "user", "content": "Is it good?"}
PARTS = [{"type": "text", "text": "Ye"}, {"type": "text", "text": "s."}]
SYSTEM = {"role": "system", "content": "Be brief."}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def jsonl(tmp_path: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def table(tmp_path: Path, *rows: dict[str, Any], name: str = "table.csv") -> Path:
    path = tmp_path / name
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(column for row in rows for column in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def reasons(done: Import) -> list[tuple[str, str]]:
    return [(row.where.rpartition("/")[2], row.reason) for row in done.bad]


def chosen(store: FeedbackStore) -> list[tuple[str, str | None]]:
    """(prompt, the completion that was preferred) of each judgement."""
    items = {item.id: item for item in store.items()}
    found = []
    for judgement in store.judgements():
        item, choice = items[judgement.item_id], (judgement.value or {})["choice"]
        found.append((item.prompt, None if choice is None else item.completions[choice]))
    return found


# TRL's formats


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Is it good?", "chosen": "Yes.", "rejected": "No."},
        {"prompt": [USER], "chosen": [assistant("Yes.")], "rejected": [assistant("No.")]},
        {"chosen": [USER, assistant("Yes.")], "rejected": [USER, assistant("No.")]},
        {"prompt": "Is it good?", "chosen": [USER, assistant("Yes.")], "rejected": [USER, assistant("No.")]},
        {"prompt": [USER], "chosen": [{**assistant(""), "content": PARTS}], "rejected": "No."},
    ],
    ids=["strings", "messages", "implicit", "implicit-with-a-prompt", "parts"],
)  # fmt: skip
def test_preferences_of_every_shape_say_the_same(store: FeedbackStore, tmp_path: Path, row: dict[str, Any]) -> None:
    done = import_file(store, jsonl(tmp_path, row))
    assert (done.format, done.items, done.judgements, done.bad, done.quarantine) == ("preference", 1, 1, (), None)
    assert chosen(store) == [("Is it good?", "Yes.")]
    assert store.progress().finished == 1, "nobody is asked about it again"


def test_implicit_prompts_of_strings_end_before_the_word_that_differs(store: FeedbackStore, tmp_path: Path) -> None:
    rows = [
        {"chosen": "The sky is blue today.", "rejected": "The sky is black."},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: I think so", "rejected": "\n\nHuman: Hi\n\nAssistant: I do not"},
        {"chosen": "nothing", "rejected": "shared"},
    ]
    import_file(store, jsonl(tmp_path, *rows))
    assert chosen(store) == [
        ("The sky is", " blue today."),
        ("\n\nHuman: Hi\n\nAssistant:", " I think so"),
        ("", "nothing"),
    ]
    for row in rows:
        prompt, first, second = read_pair(row)
        assert (prompt + first, prompt + second) == (row["chosen"], row["rejected"])


def test_longer_conversations_become_transcripts_and_keep_their_messages(store: FeedbackStore, tmp_path: Path) -> None:
    prompt = [SYSTEM, USER, assistant("Well."), USER]
    import_file(
        store, jsonl(tmp_path, {"prompt": prompt, "chosen": [assistant("Yes.")], "rejected": [assistant("No.")]})
    )
    (item,) = store.items()
    assert item.prompt == "System: Be brief.\n\nUser: Is it good?\n\nAssistant: Well.\n\nUser: Is it good?"
    assert item.meta["messages"] == prompt


def test_the_place_of_the_chosen_one_tells_nothing(store: FeedbackStore, tmp_path: Path) -> None:
    rows = [{"prompt": str(i), "chosen": f"{i % 2} a", "rejected": f"{(i + 1) % 2} b"} for i in range(8)]
    import_file(store, jsonl(tmp_path, *rows))
    assert {(judgement.value or {})["choice"] for judgement in store.judgements()} == {0, 1}
    assert [text for _, text in chosen(store)] == [row["chosen"] for row in rows]


def test_other_columns_strength_ties_and_annotators_are_kept(store: FeedbackStore, tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    path = jsonl(tmp_path, {**row, "strength": 3, "annotator": "ada", "split": "train"}, {**row, "probability": 0.5})
    import_file(store, path, annotator="crowd")
    (item,) = store.items()
    assert item.meta == {"split": "train"} and item.source == "rows.jsonl"
    assert {judgement.annotator: judgement.value for judgement in store.judgements()} == {
        "ada": {"choice": 0, "strength": 3},
        "crowd": {"choice": None, "strength": 0},
    }


def test_kto_rows_are_thumbs_and_numbers_are_ratings(store: FeedbackStore, tmp_path: Path) -> None:
    kto = [
        {"prompt": "p", "completion": "a", "label": True},
        {"prompt": [USER], "completion": [assistant("b")], "label": False},
    ]
    assert import_file(store, jsonl(tmp_path, *kto)).format == "kto"
    ratings = [{"prompt": "p", "completion": "a", "label": 4}, {"prompt": "p", "completion": "b", "label": 2.0}]
    assert import_file(store, jsonl(tmp_path, *ratings)).format == "ratings"
    import_file(store, table(tmp_path, {"prompt": "p", "completion": "c", "label": "false"}), annotator="csv")
    assert [(judgement.kind, judgement.value) for judgement in store.judgements()] == [
        ("thumbs", {"up": True}),
        ("thumbs", {"up": False}),
        ("rating", {"rating": 4}),
        ("rating", {"rating": 2}),
        ("thumbs", {"up": False}),
    ]


# Questions to ask


def test_rows_without_judgements_are_questions(store: FeedbackStore, tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "completions": ["a", "b"], "overlap": 2, "priority": 5},
        {"prompt": "p", "completions": ["a", "b", "c"]},
        {"prompt": "p", "completion": "a"},
        {"prompt": "p", "completion": "a", "kind": "correction", "gold": {"text": "A."}, "policy": "tiny"},
    ]
    done = import_file(store, jsonl(tmp_path, *rows), overlap=3)
    assert (done.format, done.items, done.judgements) == ("items", 4, 0)
    assert [(item.kind, item.overlap) for item in store.items()] == [
        ("pairwise", 2), ("ranking", 3), ("rating", 3), ("correction", 3)
    ]  # fmt: skip
    assert store.items()[0].priority == 5 and store.items()[3].gold == {"text": "A."}
    assert import_file(store, jsonl(tmp_path, {"prompt": "q", "completion": "a"}), kind="thumbs").items == 1
    assert store.items()[-1].kind == "thumbs"


def test_judgements_can_be_made_gold(store: FeedbackStore, tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen": "b", "rejected": "a"}, {"prompt": "q", "completion": "x"}]
    done = import_file(store, jsonl(tmp_path, rows[0]), gold=True, overlap=7)
    (item,) = store.items()
    assert item.gold == {"choice": item.completions.index("b"), "strength": 1} and done.judgements == 0
    assert store.progress().finished == 0, "it is still to be asked"
    done = import_file(store, jsonl(tmp_path, rows[1]), gold=True)
    assert "one expected answer" in done.bad[0].reason


# Bad rows


def test_bad_rows_go_to_the_quarantine_with_their_line_and_the_others_are_taken(
    store: FeedbackStore, tmp_path: Path
) -> None:
    good = {"prompt": "p", "chosen": "good", "rejected": "bad"}
    path = jsonl(
        tmp_path,
        good,
        "{not json",
        "",
        [1, 2],
        {"prompt": "p", "chosen": "same", "rejected": "same"},
        {"prompt": "p", "chosen": "x"},
        {"prompt": "p", "chosen": 7, "rejected": "x"},
        {"prompt": "p", "chosen": None, "rejected": "x"},
        {**good, "strength": 9},
        {**good, "prompt": [{"role": "user", "content": [{"type": "image"}]}]},
        {"prompt": [USER], "chosen": [assistant("a"), USER], "rejected": [assistant("b")]},
        {**good, "annotator": "no\nname"},
        good,
        {**good, "chosen": "bad", "rejected": "good"},
        {**good, "prompt": "q"},
    )  # fmt: skip
    done = import_file(store, path)
    assert (done.rows, done.items, done.judgements) == (15, 2, 2)
    assert done.quarantine == tmp_path / "rows.jsonl.quarantine.jsonl"
    expected = {
        2: "not JSON",
        3: "the line is blank",
        4: "list where an object is expected",
        5: "'chosen' and 'rejected' are the same",
        6: "no column 'rejected'",
        7: "'chosen' is int, not a string",
        8: "'chosen' is null",
        9: "strength",
        10: "a picture without its path or data",
        11: "'chosen' must be one assistant message (after the prompt), or turns that end with one, not messages of: "
        "assistant, user",
        12: "an annotator's name",
        13: f"duplicate: 'import' has judged this item in {path}:1",
        14: f"contradiction: 'import' has judged this item in {path}:1 already, as",
    }
    found = {int(row.where.rpartition(":")[2]): row for row in done.bad}
    assert list(found) == list(expected)
    for line, reason in expected.items():
        assert reason in found[line].reason, found[line]
    written = [json.loads(line) for line in done.quarantine.read_text(encoding="utf-8").splitlines()]
    assert [(row["where"], row["reason"]) for row in written] == [(row.where, row.reason) for row in done.bad]
    assert written[0]["row"] == "{not json" and written[-1]["row"]["chosen"] == "bad"


def test_a_bad_line_of_bytes_is_one_bad_row(store: FeedbackStore, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"prompt": "p", "completion": "a"}\n{"prompt": "\xff"}\n{"prompt": "q", "completion": "b"}\n'
    )
    done = import_file(store, path)
    assert done.items == 2
    assert reasons(done) == [("rows.jsonl:2", "byte 0xff is not UTF-8: save the file as UTF-8")]


def test_csv_rows_are_named_by_their_first_line(store: FeedbackStore, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,chosen,rejected\n"a\nb",x,y\nq,x\n"r"r,x,y\n\ns,x,x\nt,x,y\n', encoding="utf-8")
    done = import_file(store, path)
    assert [item.prompt for item in store.items()] == ["a\nb", "t"]
    assert [where for where, _ in reasons(done)] == ["rows.csv:4", "rows.csv:5", "rows.csv:6", "rows.csv:7"]
    assert "2 cells where the header has 3" in done.bad[0].reason
    assert "not CSV" in done.bad[1].reason and done.bad[1].row == '"r"r,x,y'


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "p", "completions": []}, "'completions' must be a list with something in it"),
        ({"prompt": "p", "completions": "ab"}, "'completions' must be a list"),
        ({"prompt": "p", "completions": ["a"], "kind": "pairwise"}, "must have 2 completions, got 1"),
        ({"prompt": "p", "completions": ["a"], "kind": "essay"}, "unknown kind 'essay'"),
        ({"prompt": "p", "completions": ["a"], "kind": ["rating"]}, "unknown kind"),
        ({"prompt": "p", "completions": ["a"], "meta": [1]}, "'meta' must be an object"),
        ({"prompt": "p", "completions": ["a"], "overlap": "many"}, "'overlap' must be a whole number"),
        ({"prompt": "p", "completions": ["a"], "overlap": 0}, "overlap"),
        ({"prompt": "p", "completions": ["a"], "gold": {"rating": 99}}, "rating"),
        ({"prompt": "p", "completions": ["a"], "created": "yesterday"}, "'created' must be a date and time"),
        ({"prompt": "p", "completions": ["a"], "judgements": {}}, "'judgements' must be a list"),
        ({"prompt": "p", "completions": ["a"], "judgements": [{"value": {"rating": 9}}]}, "must be from 1 to 5"),
        ({"prompt": "p", "completions": ["a"], "judgements": [{"annotator": "ada"}]}, "no column 'value'"),
        ({"prompt": "p", "completions": ["a"], "judgements": [{"value": None, "seconds": -1}]}, "'seconds' must be"),
        ({"prompt": "p", "completions": ["a"], "judgements": [{"value": None, "sides": [1]}]}, "'sides' of a"),
        ({"completions": ["a"]}, "no column 'prompt'"),
    ],
)  # fmt: skip
def test_a_bad_item_is_named_and_leaves_the_others_alone(
    store: FeedbackStore, tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    fine = {"prompt": "fine", "completions": ["a"]}
    done = import_file(store, jsonl(tmp_path, fine, row, {**fine, "prompt": "fine too"}))
    assert [item.prompt for item in store.items()] == ["fine", "fine too"]
    assert [where for where, _ in reasons(done)] == ["rows.jsonl:2"]
    assert reason in done.bad[0].reason


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.doc", "x", "unknown extension '.doc'"),
        ("rows.txt", "x", "rows.txt:1: columns prompt: expected prompt with completions"),
        ("rows.jsonl", "", "there are no rows"),
        ("rows.jsonl", '{"a": 1}\n', "rows.jsonl:1: columns a: expected prompt with completions"),
        ("rows.json", "{}", "dict where a list of objects is expected"),
        ("rows.json", "[", "not JSON"),
        ("rows.csv", "a,a\n1,2\n", "a column name is there twice"),
        ("rows.jsonl.gz", "plain", "not readable"),
    ],
)
def test_a_file_that_cannot_be_used_at_all_is_an_error(
    store: FeedbackStore, tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        import_file(store, path)
    assert store.items() == []


def test_columns_are_renamed_and_a_name_that_is_not_there_is_an_error(store: FeedbackStore, tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"prompt": 7, "text": "p", "chosen": "a", "rejected": "b"})
    import_file(store, path, columns={"prompt": "text"})
    assert chosen(store) == [("p", "a")]
    with pytest.raises(
        ValueError,
        match=r"rows\.jsonl:1: no column 'txt' to read as 'prompt' \(there are: .*\); did you mean 'text'\?",
    ):
        import_file(store, path, columns={"prompt": "txt"})


def test_a_table_in_another_encoding_is_named_with_its_line(store: FeedbackStore, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("prompt,chosen,rejected\np,a,b\nq,schön,b\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"rows\.csv:3: byte 0xf6 is not UTF-8: save the file as UTF-8"):
        import_file(store, path)


def test_a_text_that_looks_like_messages_is_a_text_in_json(store: FeedbackStore, tmp_path: Path) -> None:
    text = '[{"role": "user", "content": "Hi"}]'
    import_file(store, jsonl(tmp_path, {"prompt": text, "chosen": f"{text}!", "rejected": "b"}))
    assert store.items()[0].completions == (f"{text}!", "b")


def test_a_conversation_is_not_the_question_of_a_text_that_reads_the_same(store: FeedbackStore, tmp_path: Path) -> None:
    plain = {"prompt": "Is it good?", "chosen": "Yes.", "rejected": "No."}
    said = {**plain, "prompt": [USER], "annotator": "ada"}
    assert import_file(store, jsonl(tmp_path, plain, said, {**said, "annotator": "bob"})).items == 2
    rows = preference_rows(store.items(), store.judgements()).rows
    assert [row["prompt"] + row["chosen"] for row in rows] == [
        "Is it good?Yes.", "User: Is it good?\n\nAssistant: Yes.", "User: Is it good?\n\nAssistant: Yes."
    ]  # fmt: skip


def test_a_missing_file_and_an_unknown_format_are_errors(store: FeedbackStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl"):
        import_file(store, tmp_path / "gone.jsonl")
    with pytest.raises(ValueError, match="unknown format 'alpaca'"):
        import_file(store, jsonl(tmp_path, {}), "alpaca")


@pytest.mark.parametrize(
    "bad",
    [
        '"priority": "high"',
        '"priority": 1' + "0" * 400,
        f'"overlap": {2**63}',
        '"meta": {"a": ' + "[" * 900 + "]" * 900 + "}",
        '"meta": {"a": ' + "[" * 200 + "]" * 200 + "}",
        '"id": ' + "9" * 5000,
        '"judgements": [{"value": {"choice": 0}, "created": "0001-01-01T00:00:00+23:59"}]',
        '"judgements": [{"value": {"choice": 0}, "annotator": "a\\u0000b"}]',
        '"meta": ' + "[" * 100_000,
    ],
    ids=lambda bad: bad[:30],
)
def test_a_row_that_cannot_be_stored_is_set_aside_and_the_others_are_imported(
    store: FeedbackStore, tmp_path: Path, bad: str
) -> None:
    rows = [f'{{"prompt": "{prompt}", "completions": ["x", "y"]' for prompt in ("before", "bad", "after")]
    path = tmp_path / "in.jsonl"
    path.write_text(f"{rows[0]}}}\n{rows[1]}, {bad}}}\n{rows[2]}}}\n")
    done = import_file(store, path, format="items")
    assert [row.where for row in done.bad] == [f"{path}:2"]
    assert {"before", "after"} <= {item.prompt for item in store.items()}
    assert done.quarantine is not None and done.quarantine.read_text().count("\n") == 1


def test_a_line_that_is_too_long_is_set_aside_and_the_others_are_taken(
    store: FeedbackStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_LINE", 1000)
    rows = [{"prompt": "p", "completion": text} for text in ("a", "x" * 2000, "b")]
    done = import_file(store, jsonl(tmp_path, *rows))
    assert (done.items, reasons(done)[0][0]) == (2, "rows.jsonl:2")
    assert "the row has more than 1,000 bytes" in done.bad[0].reason
    assert done.quarantine is not None
    assert done.quarantine.stat().st_size < 1000
