"""Run the command `rlhf compare`: compare algorithms on equal terms."""

from __future__ import annotations

import shlex

import typer
from rich.console import Console

from rlhf_envs.registration import check_environment

from ..experiments.compare.config import CompareConfig
from ..training.data_flags import DataFlags
from ..training.fields import option
from .options import from_file
from .tables import make_table

__all__ = ["CompareFlags", "compare"]


class CompareFlags(DataFlags, CompareConfig):
    """Hold the flags of `rlhf compare`: a comparison, or the file that describes one."""

    config: str | None = option(None, "TOML, YAML or JSON file of these settings; flags come before it.")


def _read(flags: CompareFlags) -> CompareConfig:
    """Return the file's settings, replaced by the flags that are given."""
    given = flags.model_dump(exclude={"config"}, exclude_unset=True)
    return CompareConfig(**given) if flags.config is None else from_file(CompareConfig, flags.config, given)


def compare(flags: CompareFlags) -> None:
    """Compare algorithms: equal tokens, prompts, reference, decoding and evaluation, several seeds each.

    Runs go side by side in processes. The folder gets a folder `<algorithm>/seed_<kk>` per run, report.md, report.html,
    report.json, results.csv, table.tex, plots/ and TensorBoard events. The same command goes on where one was stopped
    or killed, and tries failed runs again; with more --algos, --seeds or --kl-coefs it adds to what the folder has. It
    exits with 1 if a run failed.
    """
    console = Console()
    config = _read(flags)
    check_environment(config.env)
    with console.status("loading"):
        from ..experiments.compare import compare, report
    try:
        comparison = compare.compare(config, lambda text: console.print(text, markup=False, soft_wrap=True))
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on", markup=False)
        raise typer.Exit(130) from None
    head, rows = report.summary_table(comparison.report, ("reward", "kl"))
    title = report.headline(comparison.report)
    caption = (
        f"evaluated {report.evaluations(comparison.report)}" if any(a.metrics for a in comparison.report.arms) else None
    )
    console.print(make_table(head, rows, title=title, caption=caption, left=len(head)))
    for note in comparison.report.notes:
        console.print(f"- {note}", markup=False, soft_wrap=True)
    console.print(f"{comparison.seconds:.0f} s. See {comparison.folder / 'report.html'}", markup=False, soft_wrap=True)
    console.print(f"curves: tensorboard --logdir {shlex.quote(str(comparison.folder))}", markup=False, soft_wrap=True)
    if comparison.failed:
        raise typer.Exit(1)
