"""Measure what a model of `rlhf/ImageQA-v0` answers with its pictures, without them, and without the questions.

    python -m benchmarks.pictures MODEL_OR_RUN -n 400

Without pictures every picture is the same gray one; without questions every question is "what is it?". The most
probable token is taken. Prints the accuracy on test pictures, by kind of question.
"""

from __future__ import annotations

import argparse
import io
from typing import Any

import numpy as np
from PIL import Image

import agents
from rlhf_envs.datasets import load_rows
from rlhf_envs.datasets.pictures import as_data_uri
from rlhf_envs.tasks.images.questions import KINDS, kind_of

QUESTION = "what is it?"


def gray() -> str:
    """Return a gray picture."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (230, 230, 230)).save(file, "PNG")
    return as_data_uri(file.getvalue())


def accuracies(source: str, rows: list[dict[str, Any]], n: int) -> dict[str, float]:
    """Return the accuracy of n answers, of all and by kind of question."""
    options = {"data": rows, "split": "test"}
    found = agents.evaluate(source, "rlhf/ImageQA-v0", n, deterministic=True, env_kwargs=options).completions
    right = np.array([done.metrics["accuracy"] for done in found])
    kinds = np.array([kind_of(done.row["label"]) for done in found])
    return {"all": right.mean(), **{kind: right[kinds == kind].mean() for kind in KINDS}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a model, its folder, or a run")
    parser.add_argument("-n", type=int, default=400)
    flags = parser.parse_args()
    rows = load_rows("easy_vqa", "test")
    blank = gray()
    inputs = {
        "picture and question": rows,
        "question alone": [{**row, "image": blank} for row in rows],
        "picture alone": [{**row, "prompt": QUESTION} for row in rows],
    }
    print("| given | " + " | ".join(["all", *KINDS]) + " |\n" + "|---" * (len(KINDS) + 2) + "|")
    for name, given in inputs.items():
        found = accuracies(flags.source, given, flags.n)
        print(f"| {name} | " + " | ".join(f"{found[kind]:.3f}" for kind in ("all", *KINDS)) + " |", flush=True)


if __name__ == "__main__":
    main()
