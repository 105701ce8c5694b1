"""Write the table of results into the READMEs, in English and in Chinese: `python -m benchmarks.tasks.readmes`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from rlhf_envs.files import replace_file
from rlhf_envs.tasks.results import WORDS, results_table

ROOT = Path(__file__).parents[2]
READMES: dict[Literal["en", "zh"], str] = {"en": "README.md", "zh": "README.zh.md"}


def write_tables(root: Path = ROOT) -> None:
    """Put the table of what is measured now in place of the one that each README has.

    Raises:
        ValueError: a README has no table with the heading of `rlhf_envs.tasks.results.WORDS`, or several.
    """
    for language, name in READMES.items():
        text = (root / name).read_text(encoding="utf-8")
        heading, _ = WORDS[language]
        tables = re.findall(re.escape(heading) + r"(?:\n\|.*)*", text)
        if len(tables) != 1:
            raise ValueError(f"{name}: {len(tables)} tables begin with {heading!r}, expected one")
        if tables[0] != results_table(language):
            replace_file(root / name, text.replace(tables[0], results_table(language)).encode("utf-8"))


if __name__ == "__main__":
    write_tables()
