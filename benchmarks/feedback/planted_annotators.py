"""Plant bad annotators among good ones, and see whom the admin's figures suspect, and after how many items.

`python -m benchmarks.feedback.planted_annotators` puts pairs of rated snippets into a store. Ten annotators judge them,
in turns: two click at random, one always takes the text on the left (of a random strength), one is slow but good, and
six are honest. The good ones choose by the snippets' mean ratings (in standard deviations) with the noise of a Bradley-
Terry model; `--temperature` is its size, for which the share of right choices is printed beside what real raters reach
on such pairs. After every answer that each of them has given the checks of `rlhf feedback status` and of the admin's
page are made anew, from the 5th to the last: whoever is suspected at any look counts as suspected. A seed is passed if
all three bad ones are suspected within `--items` items each and nobody else ever is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from scipy.stats import binomtest

from rlhf_envs.datasets import load_rows
from rlhf_envs.feedback import Assignment, FeedbackStore, Judgement, NewItem
from rlhf_envs.feedback.annotating import Response, work_once
from rlhf_envs.feedback.quality import check_annotators
from rlhf_envs.feedback.simulated import SimulatedAnnotator
from rlhf_envs.feedback.web.admin.summary import summarise

__all__ = ["BAD", "Seed", "main", "measure"]

BAD = ("random-1", "random-2", "left")
FIRST_LOOK = 5
Respond = Callable[[Assignment], Response | None]


@dataclass(frozen=True)
class Seed:
    """Hold what one seed gave: suspect -> items at which they were first suspected, and the good ones' right share."""

    suspected: dict[str, int]
    right: float

    @property
    def passed(self) -> bool:
        return set(self.suspected) == set(BAD)


def load_pairs(n: int, seed: int) -> tuple[list[tuple[str, str]], dict[str, float]]:
    """Return n pairs of snippets with different means, and every snippet's mean rating in standard deviations."""
    rows: list[Any] = load_rows("rated_snippets", required=("text", "mean"))
    means = np.array([row["mean"] for row in rows], float)
    scores = {row["text"]: float(score) for row, score in zip(rows, means / means.std(), strict=True)}
    generator = np.random.default_rng(seed)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < n:
        a, b = (rows[i]["text"] for i in generator.choice(len(rows), 2, replace=False))
        if scores[a] != scores[b]:
            pairs.append((a, b))
    return pairs, scores


def staff(scores: dict[str, float], temperature: float, seed: int) -> dict[str, Respond]:
    """Return how each of the ten answers."""

    def score(prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
        return [scores[text] for text in completions]

    generator = np.random.default_rng([seed, 1])

    def timed(respond: Respond, median: float) -> Respond:
        def answer(assignment: Assignment) -> Response | None:
            given = respond(assignment)
            assert given is not None
            return Response(given.value, seconds=float(median * np.exp(0.4 * generator.standard_normal())))

        return answer

    def left(assignment: Assignment) -> Response:
        return Response({"choice": assignment.sides[0], "strength": int(generator.integers(1, 4))})

    def good(name: str, k: int) -> SimulatedAnnotator:
        return SimulatedAnnotator(score, name, temperature=temperature, strengths=(1.0, 2.0), seed=100 * seed + k)

    crowd: dict[str, Respond] = {"left": timed(left, 8), "slow": timed(good("slow", 9), 60)}
    for k in (1, 2):
        clicker = SimulatedAnnotator(score, f"random-{k}", clicks_at_random=True, seed=100 * seed + 20 + k)
        crowd[clicker.name] = timed(clicker, 8)
    return crowd | {f"honest-{k}": timed(good(f"honest-{k}", k), 8) for k in range(1, 7)}


def measure(items: int, overlap: int, temperature: float, seed: int, folder: Path) -> Seed:
    """Run one seed through a store and look after every item."""
    pairs, scores = load_pairs(-(-items * 10 // overlap), seed)
    crowd = staff(scores, temperature, seed)
    generator = np.random.default_rng([seed, 2])
    with FeedbackStore(folder / f"{seed}.db", seed=seed) as store:
        store.add_items([NewItem("pairwise", "Which review is kinder?", pair, overlap=overlap) for pair in pairs])
        for name in crowd:
            store.add_annotator(name)
        for _ in range(items):
            for name in generator.permutation(list(crowd)):
                work_once(store, str(name), crowd[str(name)])
        judgements, asked = store.judgements(), {item.id: item for item in store.items()}
        at_the_end = {row.name for row in summarise(store).annotators if row.check and row.check.suspect}
    suspected: dict[str, int] = {}
    for look in range(FIRST_LOOK, items + 1):
        checks = check_annotators(_first(judgements, look))
        found = {name for name, check in checks.items() if check.at_random or check.by_side}
        for name in found - suspected.keys():
            suspected[name] = look
    assert found == at_the_end, f"the page suspects {sorted(at_the_end)}, not {sorted(found)}"
    right = [
        scores[asked[j.item_id].completions[j.value["choice"]]]
        == max(scores[text] for text in asked[j.item_id].completions)
        for j in judgements
        if j.value is not None and j.value["choice"] is not None and j.annotator.startswith(("honest", "slow"))
    ]
    return Seed(suspected, float(np.mean(right)))


def _first(judgements: Sequence[Judgement], n: int) -> list[Judgement]:
    """Return the first n judgements of everybody."""
    seen: dict[str, int] = {}
    kept = []
    for judgement in judgements:
        seen[judgement.annotator] = seen.get(judgement.annotator, 0) + 1
        if seen[judgement.annotator] <= n:
            kept.append(judgement)
    return kept


def rater_accuracy() -> float:
    """Return how often a real rater orders two snippets of a batch as the other raters' means do; ties count half."""
    from .crowd import load_batches

    right = []
    for batch in load_batches()[::5]:
        for k in range(len(batch)):
            others = np.delete(batch, k, axis=0).mean(axis=0)
            own = np.sign(np.subtract.outer(batch[k], batch[k]))
            truth = np.sign(np.subtract.outer(others, others))
            right.append(np.mean(0.5 + 0.5 * (own * truth)[truth != 0]))
    return float(np.mean(right))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--items", type=int, default=30, help="for each annotator")
    parser.add_argument("--overlap", type=int, nargs="+", default=[10, 5, 3])
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    args = parser.parse_args(arguments)
    start = time.perf_counter()
    print(f"a real rater orders {rater_accuracy():.1%} of the pairs of a batch as the others' mean (ties count half)\n")
    print(
        "| temperature | right | overlap | bad ones found | after items, median (last) | good ones accused | passed |"
    )
    print("|---|---|---|---|---|---|---|")
    for temperature in args.temperature:
        for overlap in args.overlap:
            with TemporaryDirectory() as folder:
                runs = [measure(args.items, overlap, temperature, seed, Path(folder)) for seed in range(args.seeds)]
            print(_row(temperature, overlap, runs), flush=True)
    print(f"\n{args.seeds} seeds, {args.items} items for each annotator, {time.perf_counter() - start:.0f} s")


def _row(temperature: float, overlap: int, runs: Sequence[Seed]) -> str:
    looks = [run.suspected[name] for run in runs for name in BAD if name in run.suspected]
    accused = sum(len(set(run.suspected) - set(BAD)) for run in runs)
    found, bad = len(looks), len(BAD) * len(runs)
    low, high = binomtest(found, bad).proportion_ci(method="wilson")
    when = f"{np.median(looks):.0f} ({max(looks)})" if looks else "–"
    right = np.mean([run.right for run in runs])
    return (
        f"| {temperature} | {right:.1%} | {overlap} | {found} of {bad} ({low:.0%} to {high:.0%}) | {when} | "
        f"{accused} of {7 * len(runs)} | {sum(run.passed for run in runs)} of {len(runs)} |"
    )


if __name__ == "__main__":
    main()
