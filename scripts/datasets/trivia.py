"""Write the trivia of the package chatterbot-corpus as a file for rlhf/QuestionAnswering-v0.

    pip download --no-deps chatterbot-corpus==1.3.3
    python -m scripts.datasets.trivia chatterbot_corpus-1.3.3-py2.py3-none-any.whl trivia.jsonl
    rlhf train --env rlhf/QuestionAnswering-v0 --data trivia.jsonl

The questions are contributed by users, from sources that are not stated, and the package carries no licence file (its
metadata say "BSD License"). So they are not bundled.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from pathlib import Path

from agents.training.hyperparams import parse_yaml

MEMBER = "chatterbot_corpus/data/english/trivia.yml"


def questions(wheel: Path) -> tuple[list[dict[str, str]], int]:
    """Return the different questions that have one answer, in their order, and how many entries are left out."""
    with zipfile.ZipFile(wheel) as archive:
        talks = parse_yaml(archive.read(MEMBER).decode("utf-8"))["conversations"]
    found: dict[str, str] = {}
    for talk in talks:
        if isinstance(talk, list) and len(talk) == 2:
            found.setdefault(" ".join(str(talk[0]).split()), str(talk[1]).strip())
    return [{"prompt": question, "answer": answer} for question, answer in found.items()], len(talks) - len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    found, others = questions(args.wheel)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in found]
    args.output.write_text("".join(lines), encoding="utf-8")
    print(f"{args.output}: {len(found)} questions; {others} entries repeat one, or are no question and answer")


if __name__ == "__main__":
    main()
