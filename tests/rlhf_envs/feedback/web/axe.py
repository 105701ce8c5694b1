"""Run axe-core on a page as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

package = pytest.importorskip("axe_playwright_python", reason="axe-core is missing: pip install axe-playwright-python")
_SOURCE = (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
THEMES = ("light", "dark")
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}

# Only what is asserted leaves the page: axe's whole results are megabytes, which took longer than axe itself.
_RUN = """rules => axe.run({rules, resultTypes: ["violations"]}).then(found => [
  found.passes.length,
  found.violations.flatMap(rule => rule.nodes.map(node => `${rule.id}: ${node.html.slice(0, 300)}`)),
])"""


def load_axe(page: Any) -> None:
    page.evaluate(_SOURCE)


def violations(page: Any, *rules: str) -> list[str]:
    """Return what axe finds wrong now, also by `rules` that are off by default: a line per rule and element."""
    n_passes, found = page.evaluate(_RUN, {rule: {"enabled": True} for rule in rules})
    assert n_passes > 5, "axe has looked at something"
    return list(found)
