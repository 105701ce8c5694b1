"""Nothing that an extra installs is under a licence whose terms an MIT project cannot pass on."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
GNU = re.compile(r"(?<!L)GPL|Affero|GNU General Public", re.IGNORECASE)  # the Lesser GPL may be imported
TOOLS = {"docs", "dev"}  # run beside the project, never imported by it


def licence_of(found: Distribution) -> str:
    """What a distribution says of its licence, without the text of it."""
    names = ("License-Expression", "License", "Classifier")
    said = [line for name in names for line in found.metadata.get_all(name) or []]
    return "; ".join(line[:100] for line in said if not line.startswith("Classifier") or "License" in line)


@pytest.mark.parametrize("extra", [extra for extra in EXTRAS if extra not in TOOLS])
def test_extras_install_nothing_under_the_gpl(extra: str) -> None:
    waiting, seen, refused = [Requirement(line) for line in EXTRAS[extra]], set(), {}
    while waiting:
        wanted = waiting.pop()
        if wanted.name in seen or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        seen.add(wanted.name)
        try:
            found = distribution(wanted.name)
        except PackageNotFoundError:  # of an extra that is not installed here
            continue
        waiting += [Requirement(line) for line in found.requires or []]
        if GNU.search(licence_of(found)):
            refused[wanted.name] = licence_of(found)
    assert refused == {}


def test_the_gpl_is_told_from_the_lesser() -> None:
    assert GNU.search("License :: OSI Approved :: GNU General Public License v3 (GPLv3)")
    assert GNU.search("GPL-3.0-or-later") and GNU.search("GNU Affero General Public License")
    assert not GNU.search("LGPL-3.0") and not GNU.search("GNU Lesser General Public License v3 (LGPLv3)")
