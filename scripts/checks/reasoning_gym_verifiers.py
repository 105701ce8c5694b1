"""Try the verifiers of reasoning-gym: what do answers get that know nothing?

    python -m scripts.checks.reasoning_gym_verifiers

For every dataset, with the package's default configuration, 16 questions (--rows) are answered with constants, answers
of other questions and near misses, and with the right answer in a sentence. It prints a table of the datasets in which
one of these scores as much as the right answers, or a sentence scores at all, by the package's score and by ours.
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

from rlhf_envs.tasks.checking import CONSTANTS, check_task, mean_score
from rlhf_envs.tasks.lookup import task_of
from rlhf_envs.tasks.reasoning.items import package

ENV = "rlhf/ReasoningGym-v0"


def try_dataset(name: str, scorer: str, n: int) -> str:
    """Return what is found of a dataset and scorer, "" if nothing is wrong."""
    kwargs: dict[str, Any] = {"dataset": name, "difficulty": None, "scorer": scorer, "size": n}
    try:
        report = check_task(ENV, n=n, strict=False, **kwargs)
    except ValueError as error:
        return try_constants(kwargs) if scorer == "package" else f"refused: {str(error).splitlines()[0][:90]}"
    found = [f"{kind} {report.scores[kind]:.2f}" for kind in report.beaten_by]
    if report.references < 1:
        found.append(f"right answers {report.references:.2f}")
    task: Any = task_of(ENV, **kwargs)
    rows = task.rows("train", None)
    sentence = mean_score(task.reward(32), task, rows, [f"The answer is {row['answer']}, I think." for row in rows])
    if sentence > 0:
        found.append(f"in a sentence {sentence:.2f}")
    return "; ".join(found)


def try_constants(kwargs: dict[str, Any]) -> str:
    """Return what constants get of a dataset without stated answers."""
    task: Any = task_of(ENV, **kwargs)
    rows = task.rows("train", None)
    scores = {text: mean_score(task.reward(32), task, rows, [text] * len(rows)) for text in CONSTANTS}
    paid = [f"{text!r} {score:.2f}" for text, score in scores.items() if score > 0]
    return "no stated answer; " + ("; ".join(paid) or "constants get 0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="*", help="all by default")
    parser.add_argument("--rows", type=int, default=16, help="questions of a dataset")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    names = args.dataset or sorted(set(package().DATASETS) - {"composite"})  # composite needs a configuration
    print("| dataset | package's score | strict score |\n|---|---|---|", flush=True)
    for name in names:
        cells = [try_dataset(name, scorer, args.rows) for scorer in ("package", "strict")]
        if any(cells):
            print(f"| {name} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
