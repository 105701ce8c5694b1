"""Draw the bundled pictures and questions from the package easy-vqa.

    pip download --no-deps easy-vqa==1.0
    python -m scripts.datasets.easy_vqa easy_vqa-1.0-py3-none-any.whl
    python -m scripts.datasets.easy_vqa easy_vqa-1.0-py3-none-any.whl --all all.jsonl.gz

The last command writes all pictures, for `data=`. Deterministic: the same source gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_envs.datasets.pictures import as_data_uri
from rlhf_envs.tasks.images.questions import COLORS, SHAPES
from scripts.datasets.writing import DATA, write

PICTURES = {"train": 500, "validation": 80, "test": 180}  # that are bundled
VALIDATION = 400  # pictures of the source's training part that are for validation


def known(words: tuple[str, ...], questions: list[tuple[str, str]]) -> str | None:
    """Return the one of `words` that the answers say a picture has; None if they do not say."""
    found = {answer for _, answer in questions if answer in words}
    for text, answer in questions:
        denied = re.search(r"\b(no|not)\b", text) is not None
        if text.startswith("what") or (answer == "yes") != denied:
            found |= {word for word in words if word in text.strip("?").split()}
    return found.pop() if len(found) == 1 else None


def rows(wheel: Path) -> Iterator[dict[str, Any]]:
    """Yield a row per question, picture by picture; pictures whose shape or colour no answer says are left out."""
    with zipfile.ZipFile(wheel) as archive:
        for part in ("train", "test"):
            folder, by_picture = f"easy_vqa/data/{part}", defaultdict(list)
            for text, answer, picture in json.loads(archive.read(f"{folder}/questions.json")):
                by_picture[int(picture)].append((str(text), str(answer)))
            order = sorted(by_picture)
            random.Random(0).shuffle(order)
            for place, picture in enumerate(order):
                questions = [*dict.fromkeys(by_picture[picture])]
                shape, color = known(SHAPES, questions), known(COLORS, questions)
                if shape is None or color is None:
                    continue
                split = "test" if part == "test" else "validation" if place < VALIDATION else "train"
                image = as_data_uri(archive.read(f"{folder}/images/{picture}.png"))
                about = {"image": image, "shape": shape, "color": color, "picture": f"{part}-{picture}", "split": split}
                yield from ({"prompt": text, "label": answer, **about} for text, answer in questions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--all", type=Path, metavar="FILE", help="write all pictures to this file, and bundle nothing")
    flags = parser.parse_args()
    found = [*rows(flags.wheel)]
    if flags.all is not None:
        write(flags.all, found)
        return
    chosen: set[str] = set()
    for split, n in PICTURES.items():
        chosen |= {*[*dict.fromkeys(row["picture"] for row in found if row["split"] == split)][:n]}
    write(DATA / "easy_vqa.jsonl.gz", [row for row in found if row["picture"] in chosen])


if __name__ == "__main__":
    main()
