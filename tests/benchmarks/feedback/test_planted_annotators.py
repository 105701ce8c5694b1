"""Bad annotators among good ones: what each of them does, and that a short look finds the worst and accuses nobody."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any


def test_the_crowd_does_what_its_names_say(benchmark: Any) -> None:
    """The good ones take the better text, one always takes the left, and the clickers take each as often."""
    module = benchmark("planted_annotators")
    pairs, scores = module.load_pairs(200, seed=0)
    assert all(scores[a] != scores[b] for a, b in pairs)
    assert len(set(pairs)) > 190
    crowd = module.staff(scores, 0.1, seed=0)
    chosen: dict[str, list[tuple[bool, bool, float]]] = {name: [] for name in crowd}
    for k, texts in enumerate(pairs):
        sides = (0, 1) if k % 2 else (1, 0)
        item = SimpleNamespace(id=k, kind="pairwise", prompt="p", completions=texts, meta={})
        for name, respond in crowd.items():
            given = respond(SimpleNamespace(item=item, sides=sides))
            if given.value["choice"] is not None:
                is_better = scores[texts[given.value["choice"]]] == max(scores[text] for text in texts)
                chosen[name].append((given.value["choice"] == sides[0], is_better, given.seconds))
    left = {name: sum(row[0] for row in rows) / len(rows) for name, rows in chosen.items()}
    right = {name: sum(row[1] for row in rows) / len(rows) for name, rows in chosen.items()}
    assert left.pop("left") == 1
    assert all(0.35 < share < 0.65 for share in left.values())
    good = {name for name in crowd if name not in module.BAD}
    assert len(good) == 7
    assert all((right[name] > 0.8) == (name in good) for name in crowd)
    seconds = {name: sorted(row[2] for row in rows)[len(rows) // 2] for name, rows in chosen.items()}
    assert seconds["slow"] > 3 * max(seconds[name] for name in seconds if name != "slow")


def test_a_seed_is_passed_if_the_bad_ones_are_found_and_nobody_else(benchmark: Any) -> None:
    module = benchmark("planted_annotators")
    found = {"random-1": 20, "random-2": 30, "left": 10}
    runs = [module.Seed(found, 0.8), module.Seed({**found, "slow": 12}, 0.9), module.Seed({"left": 14}, 0.7)]
    assert [run.passed for run in runs] == [True, False, False]
    row = module._row(0.2, 5, runs)
    assert row.startswith("| 0.2 | 80.0% | 5 | 7 of 9 (")
    assert row.endswith(") | 20 (30) | 1 of 21 | 1 of 3 |")


def test_looks_take_the_first_answers_of_everybody(benchmark: Any) -> None:
    given = [SimpleNamespace(annotator=name) for name in "abaab"]
    first = benchmark("planted_annotators")._first
    assert [len(first(given, n)) for n in (0, 1, 2, 3)] == [0, 2, 4, 5]
    assert first(given, 2) == [given[0], given[1], given[2], given[4]]


def test_a_short_look_finds_the_bad_ones_and_accuses_nobody(benchmark: Any, tmp_path: Path) -> None:
    seed = benchmark("planted_annotators").measure(12, 10, 0.1, 0, tmp_path)
    assert seed.passed
    assert min(seed.suspected.values()) >= benchmark("planted_annotators").FIRST_LOOK
    assert max(seed.suspected.values()) <= 12
    assert 0.75 < seed.right <= 1
