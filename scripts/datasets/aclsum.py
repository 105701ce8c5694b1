"""Write the abstracts of papers with experts' summaries from the package aclsum, for `rlhf/Summarize-v0`.

    pip download --no-deps aclsum==0.1.2
    python -m scripts.datasets.aclsum aclsum-0.1.2-py3-none-any.whl aclsum.jsonl
    rlhf train --env rlhf/Summarize-v0 --data aclsum.jsonl --env-kwargs max_prompt_tokens:700 --model smollm2

Each abstract stands three times, with the summary of its challenge, approach and outcome (Takeshita et al., 2024,
*ACLSum: A New Dataset for Aspect-based Summarization of Scientific Publications*). The splits are the package's. Of the
papers, those from 2016 on are CC BY 4.0 and older ones CC BY-NC-SA 3.0, so that nothing of them is bundled.
"""

from __future__ import annotations

import argparse
import json
import re
import zipfile
from pathlib import Path

from scripts.datasets.writing import write

SPLITS = {"train": "train", "val": "validation", "test": "test"}


def join(sentences: list[str]) -> str:
    """Return sentences as one text, with their spaced punctuation undone."""
    text = " ".join(" ".join(sentences).split())
    return re.sub(r"\s+([,.;:!?%)\]])", r"\1", re.sub(r"([(\[])\s+", r"\1", text))


def read_rows(wheel: Path) -> list[dict[str, str]]:
    """Return three rows per paper: prompt, aspect, reference, id and split. A paper without an abstract has none."""
    rows: list[dict[str, str]] = []
    with zipfile.ZipFile(wheel) as archive:
        for file, split in SPLITS.items():
            for line in archive.read(f"aclsum/dataset/{file}.jsonl").decode("utf-8").splitlines():
                paper = json.loads(line)
                text = join(paper["sentences"]["abstract"])
                for aspect, summary in paper["summary"].items():
                    if text and summary.strip():
                        row = {"id": paper["id"], "prompt": text, "aspect": aspect, "reference": summary.strip()}
                        rows.append({**row, "split": split})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    rows = read_rows(args.wheel)
    write(args.output, rows)
    print(f"{len({row['id'] for row in rows}):,} papers")


if __name__ == "__main__":
    main()
