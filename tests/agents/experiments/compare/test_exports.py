"""What a comparison writes for other programs: the evaluations as CSV, and the table of results in LaTeX."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from agents.experiments.compare.analysis import analyse
from agents.experiments.compare.exports import to_csv, to_latex
from agents.experiments.compare.plan import Outcome
from tests.agents.experiments.compare.test_analysis import config, outcomes


def test_the_csv_has_every_evaluation_of_every_finished_run(tmp_path: Path) -> None:
    found = config(tmp_path)
    made = outcomes(found)
    made[0] = Outcome(made[0].run, {}, "ValueError: no")
    rows = list(csv.DictReader(io.StringIO(to_csv(made))))
    assert len(rows) == sum(len(outcome.evaluations) for outcome in made[1:])
    last = made[3]
    row = next(
        row
        for row in rows
        if (row["algorithm"], row["seed"]) == (last.run.arm.name, str(last.run.seed))
        and row["step"] == str(last.evaluations[-1]["step"])
    )
    assert {name: float(row[name]) for name in last.last()} == last.last()
    assert float(row["kl_coef"]) == last.run.arm.kl_coef
    assert not any(row["algorithm"] == made[0].run.arm.name and row["seed"] == "0" for row in rows)


def test_the_csv_leaves_empty_what_a_run_does_not_have(tmp_path: Path) -> None:
    made = outcomes(config(tmp_path))[:2]
    del made[0].evaluations[-1]["estimates"]["kl"]
    rows = list(csv.DictReader(io.StringIO(to_csv(made))))
    assert [row["kl"] == "" for row in rows].count(True) == 1


def test_the_latex_table_has_the_summary_of_every_arm(tmp_path: Path) -> None:
    found = config(tmp_path)
    report = analyse(found, outcomes(found))
    lines = to_latex(report).splitlines()
    assert lines[1] == r"\begin{tabular}{lrrrr}"
    assert lines[3] == r"algorithm & runs & gold & kl & gained \\"
    assert len(lines[5:-2]) == len(report.arms)
    for line, arm in zip(lines[5:-2], report.arms, strict=True):
        gold, kl = arm.metrics["gold"], arm.metrics["kl"]
        cells = [cell.strip() for cell in line.removesuffix(r"\\").split("&")]
        assert cells[:2] == [arm.name, "5"]
        assert cells[2] == f"${gold.mean:.3f}$ [${gold.low:.3f}$, ${gold.high:.3f}$]"
        assert cells[3].startswith(f"${kl.mean:.3f}$")
        assert cells[4].startswith(f"${arm.gain['mean']:+.3f} \\pm ")


@pytest.mark.parametrize(
    ("name", "shown"), [("a_b", r"a\_b"), ("50%&#{", r"50\%\&\#\{"), ("x\\y", r"x\textbackslash{}y")]
)
def test_names_are_literal_in_latex(name: str, shown: str, tmp_path: Path) -> None:
    found = config(tmp_path, seeds=1)
    report = analyse(found, outcomes(found))
    renamed = replace(report, arms=[replace(report.arms[0], name=name)])
    (line,) = to_latex(renamed).splitlines()[5:-2]
    assert line.startswith(f"{shown} & 1 & $")
    assert "[" not in line  # one seed has no interval
