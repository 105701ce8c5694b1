"""Write the results of a comparison for other programs: every evaluation as CSV, and the table of results in LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ...evaluation.statistics import Estimate
from .analysis import ComparisonReport
from .plan import Outcome
from .pruning import Pruned

__all__ = ["to_csv", "to_latex"]

KEYS = ("algorithm", "algo", "kl_coef", "seed", "step", "tokens", "seconds", "pruned_after")
SPECIAL = {**{character: f"\\{character}" for character in "&%$#_{}"}, "\\": r"\textbackslash{}"}
SPECIAL |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def to_csv(outcomes: Sequence[Outcome], pruned: Mapping[str, Pruned] = MappingProxyType({})) -> str:
    """Return one row per evaluation of each finished run: `KEYS`, then the mean of every metric over the prompts.

    A metric that an evaluation lacks is empty. `seconds` are of training alone. `pruned_after` is the number of seeds
    after which the arm was pruned.
    """
    rows, names = [], dict[str, None]()
    for outcome in outcomes:
        arm = outcome.run.arm
        for entry in outcome.evaluations if outcome.result else ():
            means = {name: estimate["mean"] for name, estimate in entry["estimates"].items()}
            names |= dict.fromkeys(means)
            own = (arm.name, arm.algo, arm.kl_coef, outcome.run.seed, entry["step"], entry["tokens"], entry["seconds"])
            after = pruned[arm.name].seeds if arm.name in pruned else None
            rows.append(dict(zip(KEYS, (*own, after), strict=True)) | means)
    file = io.StringIO()
    writer = csv.DictWriter(file, [*KEYS, *names], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def to_latex(report: ComparisonReport) -> str:
    """Return the results as a table for `booktabs`: the compared metric and the KL, with their intervals."""
    names = [report.metric]
    if report.metric != "kl" and any("kl" in arm.metrics for arm in report.arms):
        names.append("kl")
    heads = ["algorithm", "runs", *map(_escape, names), "gained"]
    lines = [
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{lr{'r' * len(names)}r}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        r"\midrule",
    ]
    for arm in report.arms:
        if arm.metrics and arm.gain is not None:
            cells = [_escape(arm.name), str(arm.finished) + (f" of {arm.runs}, pruned" if arm.pruned else "")]
            cells += [_estimate(arm.metrics[name]) if name in arm.metrics else "--" for name in names]
            error = arm.gain["standard_error"]
            gained = f"{arm.gain['mean']:+.3f}" + ("" if error is None else rf" \pm {error:.3f}")
            lines.append(" & ".join([*cells, f"${gained}$"]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _estimate(estimate: Estimate) -> str:
    mean = f"${estimate.mean:.3f}$"
    return mean if math.isnan(estimate.low) else f"{mean} [${estimate.low:.3f}$, ${estimate.high:.3f}$]"


def _escape(text: str) -> str:
    """Return a text as LaTeX shows it literally."""
    return "".join(SPECIAL.get(character, character) for character in text)
