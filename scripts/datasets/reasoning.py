"""Draw the bundled questions about families from the package reasoning-gym.

    pip install "rlhf-envs[reasoning]"
    python -m scripts.datasets.reasoning

Deterministic: the same version of the package (0.1.25) gives the same bytes.
"""

from __future__ import annotations

import argparse

from rlhf_envs.datasets import SPLITS
from rlhf_envs.tasks.reasoning.items import draw_rows
from rlhf_envs.tasks.reasoning.task import BUNDLED_LEVELS, DEFAULT, HELD_OUT, SIZE
from scripts.datasets.writing import DATA, write


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = [
        {"split": split, "prompt": row["question"], **row}
        for split in SPLITS
        for level in range(BUNDLED_LEVELS)
        for row in draw_rows(DEFAULT, level, {}, split, SIZE if split == "train" else SIZE // HELD_OUT)
    ]
    write(DATA / "reasoning.jsonl.gz", [{key: row[key] for key in row if key != "question"} for row in rows])


if __name__ == "__main__":
    main()
