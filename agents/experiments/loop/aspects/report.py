"""Report the aspects of a loop's rounds (`..loop`): each before and after the round, and what its model is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhf_envs.rendering import markdown_table
from rlhf_envs.rewards.aspects import FACTORS, read_aspects

if TYPE_CHECKING:
    from ..state import Loop, Metrics

__all__ = ["aspect_cells", "aspect_metrics", "aspect_scalars", "aspect_section"]

HEADINGS = ["round", "aspect", "counts as", "before", "after", "price", "answers", "held out"]
SECTION = """
## Aspects

{table}

**before** and **after**: the score of the same {prompts}, mean ± standard error, by the round's own reward model of
the aspect, of the agent that the round began with and of the one that it ended with. **price**: what training charged
in the end for what is beyond a limit. **held out**: how the model does on answers that it was not fitted to.
"""


def aspect_metrics(loop: Loop, number: int, steps: Mapping[str, Metrics]) -> dict[str, dict[str, Any]]:
    """Return what a round knows of each aspect: its weight or limit, scores and price, and what its model is worth.

    Args:
        loop: the run.
        number: the round.
        steps: the metrics of the round's steps, by name.
    """
    found = {}
    for name, aspect in read_aspects(loop.proxy(number), to_fit=True).items():
        factors = {key: value for key in FACTORS if (value := getattr(aspect, key)) is not None}
        prices, fitted = steps["learn"].get("prices", {}), steps["fit"]["aspects_fitted"]
        price = {"price": prices[name]} if name in prices else {}
        found[name] = {**factors, **steps["evaluate"]["aspects"][name], **price, **fitted.get(name, {})}
    return found


def aspect_scalars(metrics: Metrics) -> dict[str, float]:
    """Return the scores of a round's aspects by names of metrics."""
    return {
        f"aspect_{name}{'' if when == 'after' else '_before'}": of[when]["mean"]
        for name, of in metrics.get("aspects", {}).items()
        for when in ("before", "after")
    }


def aspect_cells(rounds: Sequence[Metrics]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of the table of aspects; no rows for a loop without."""
    rows = []
    for metrics in rounds:
        for name, of in metrics.get("aspects", {}).items():
            counts = ", ".join(f"{key.replace('_', ' ')} {of[key]:g}" for key in FACTORS if key in of)
            scores = [f"{of[when]['mean']:.3f} ± {of[when]['sem']:.3f}" for when in ("before", "after")]
            price = f"{of['price']:.2f}" if "price" in of else "–"
            worth = "–" if "measure" not in of else f"{of['measure'].removeprefix('held-out ')} {of['held_out']:.2f}"
            rows.append([str(metrics["round"]), name, counts, *scores, price, str(of.get("answers", "–")), worth])
    return HEADINGS, rows


def aspect_section(report: Mapping[str, Any]) -> str:
    """Return the section of the report on aspects; "" for a loop without."""
    head, rows = aspect_cells(report["rounds"])
    if not rows:
        return ""
    return SECTION.format(table=markdown_table(head, rows, ["---:", "---", *["---:"] * 6]), prompts=report["prompts"])
