"""Write an explanation as one HTML file: no script, nothing from the network, every text escaped.

A token's sign is told by the line under it as well as by its colour, and every value stands in a table. The colours are
the blue and the orange of Okabe and Ito (https://jfly.uni-koeln.de/color/), thinned on white, with black text.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

import numpy as np

from rlhf_envs.rendering import printable

from .explain import Explanation
from .steps import Step
from .units import Unit

__all__ = ["as_page", "cell", "known", "largest", "legend", "method_line", "named"]

STYLE = """
:root { color-scheme: light; }
body { font: 1rem/1.6 system-ui, sans-serif; color: #111; background: #fff; }
main { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid #767676; }
.text { padding: .75rem; margin: .25rem 0 1rem; }
.up, .down { text-decoration: underline solid 2px #005a8e; text-underline-offset: .2em; }
.up { background: rgba(0, 114, 178, var(--share)); }
.down { background: rgba(230, 159, 0, var(--share)); text-decoration: underline wavy 2px #8a5a00; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
caption { text-align: start; font-weight: 600; padding: .25rem 0; }
th, td { border: 1px solid #767676; padding: .15rem .5rem; text-align: end; vertical-align: top; }
th.t, td.t { text-align: start; white-space: pre-wrap; overflow-wrap: anywhere; }
code { background: #f2f2f2; }
.scroll { overflow-x: auto; }
"""
PALEST, DEEPEST = 0.12, 0.5  # how strong a colour is: black on the deepest has a contrast above 7


def known(values: np.ndarray) -> list[float]:
    """Return the values of units, 0 for those that are not known."""
    return [float(value) for value in np.nan_to_num(values)]


def largest(explanation: Explanation) -> float:
    """Return the largest absolute value of a unit, at least a tiny number."""
    return max((abs(value) for value in known(explanation.total.values)), default=0.0) or 1e-12


def named(text: str) -> str:
    """Return a piece of text as a table shows it: white space alone is put in quotes."""
    return text if text.strip() else ascii(text)


def legend() -> str:
    """Return what the marks mean."""
    return "underlined straight and blue: raised the score; wavy and orange: lowered it; the stronger, the more"


def method_line(explanation: Explanation) -> str:
    """Return how the values were found, and how far they add up to the score."""
    total = explanation.total
    gained, together = f"{total.score:.3f} less {total.baseline:.3f}", float(np.nansum(total.values))
    if total.method == "leave_one_out":
        if np.isnan(total.baseline):
            return "leave_one_out: what the score loses without the token. The reward cannot score an empty text."
        return (
            f"leave_one_out: what the score loses without the token. The values sum to {together:.3f}; the score less "
            f"that of an empty text is {gained}. The two need not agree (difference {total.delta:+.3f})."
        )
    name = "integrated_gradients" if total.method == "integrated_gradients" else "integrated_gradients, leave_one_out"
    return (
        f"{name}: the values sum to {together + total.rest:.3f} with {total.rest:.3f} of special tokens and template; "
        f"the score less that of the baseline is {gained}. Completeness delta {total.delta:+.4f}."
    )


def cell(value: float) -> str:
    """Return a value as a table shows it."""
    return "not known" if np.isnan(value) else f"{value:+.3f}"


def as_page(explanation: Explanation) -> str:
    """Return the page."""
    total, parts = explanation.total, []
    writer = f" of {explanation.source}" if explanation.source else ""
    parts.append(f"<h1>Why this text scored {total.score:.3f}</h1>")
    parts.append(f"<p>Reward <code>{_safe(explanation.reward_name)}</code>{_safe(writer)}. </p>")
    parts.append(f"<p>How to read it: {_safe(legend())}.</p>")
    values = known(total.values)
    for part in ("prompt", "completion"):
        marked = [(unit, value) for unit, value in zip(explanation.units, values, strict=True) if unit.part == part]
        shown = "".join(_mark(unit, value, largest(explanation)) for unit, value in marked) or "<em>(empty)</em>"
        parts.append(f'<h2>{part.capitalize()}</h2><div class="text" dir="auto">{shown}</div>')
    parts.append(f"<p>{_safe(method_line(explanation))}</p>")
    parts += [f"<p>Note: {_safe(note)}</p>" for note in explanation.notes]
    parts += _component_tables(explanation)
    if explanation.steps:
        parts.append(_step_table(explanation.steps, explanation.reference))
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<title>Explanation of a score</title>'
        f"<style>{STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _safe(text: str) -> str:
    return html.escape(printable(text))


def _mark(unit: Unit, value: float, most: float) -> str:
    share = PALEST + (DEEPEST - PALEST) * min(abs(value) / most, 1.0)
    if abs(value) < most / 50:
        return _safe(unit.text)
    kind = "up" if value > 0 else "down"
    return f'<span class="{kind}" style="--share:{share:.2f}" title="{value:+.3f}">{_safe(unit.text)}</span>'


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Return a table; the columns `left` hold text, whose direction the browser finds."""

    def kind(i: int) -> str:
        return ' class="t" dir="auto"' if i in left else ""

    heading = "".join(f'<th scope="col"{kind(i)}>{_safe(cell)}</th>' for i, cell in enumerate(head))
    lines = "".join(
        "<tr>" + "".join(f"<td{kind(i)}>{_safe(cell)}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    table = f"<table><caption>{_safe(caption)}</caption><thead><tr>{heading}</tr></thead><tbody>{lines}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{_safe(caption)}">{table}</div>'


def _component_tables(explanation: Explanation) -> list[str]:
    found = explanation.components
    rows = [
        (name, one.method, "" if one.weight is None else f"{one.weight:g}", f"{one.score:.3f}", f"{one.baseline:.3f}")
        for name, one in found.items()
    ]
    heads = ("component", "method", "weight", "score", "baseline")
    tables = [_table("The reward and its components", heads, rows, (0, 1))] if len(found) > 1 else []
    lines = [
        (unit.part, named(unit.text), *(cell(one.values[i]) for one in found.values()))
        for i, unit in enumerate(explanation.units)
    ]
    return [*tables, _table("Every token", ("part", "token", *found), lines, (0, 1))]


def _step_table(steps: Sequence[Step], reference: str | None) -> str:
    heads = ["token", "log p"]
    heads += ["log ratio", "KL"] if reference is not None else []
    heads.append("most probable (policy / reference)" if reference is not None else "most probable")
    rows = []
    for step in steps:
        compared = [] if step.kl is None or step.log_ratio is None else [f"{step.log_ratio:+.3f}", f"{step.kl:.3f}"]
        others = "\n".join(
            f"{one.token!r} {one.probability:.3f}" + ("" if one.reference is None else f" / {one.reference:.3f}")
            for one in step.alternatives
        )
        rows.append((named(step.token), f"{step.log_prob:.3f}", *compared, others))
    against = f", against {reference}" if reference is not None else ""
    return _table(f"The completion token by token, in nats{against}", heads, rows, (0, len(heads) - 1))
