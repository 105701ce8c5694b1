"""The command `rlhf tune`: search settings of one algorithm on one environment."""

from __future__ import annotations

import typer

from ..experiments.tune.config import TuneConfig
from .options import add_command, user_errors

__all__ = ["add_tune"]


def add_tune(app: typer.Typer) -> None:
    """Add `rlhf tune` to the command line."""
    add_command(app, TuneConfig, "tune")(_tune)


def _tune(config: TuneConfig) -> None:
    """Search the settings of an algorithm with Optuna, and confirm them with seeds that the search had not.

    A trial trains for --tokens and is judged by held-out episodes of the validation split. The first trial has the
    default settings. kl_coef is searched where the objective is a judge or --kl-limit is given: otherwise the best
    leash is none. <log-folder>/tune/<algo>/<Env> gets study.db, trials.csv, report.md and <Env>.yml, whose section
    `rlhf train --settings` takes. A search that was stopped goes on when the same command is given again.
    """
    from rich.console import Console

    from rlhf_envs.registration import check_environment

    from ..registry import check_name

    console = Console()
    with user_errors():
        check_name(config.algo)
        check_environment(config.env)
        try:
            import optuna  # noqa: F401
        except ImportError as error:
            raise ImportError(f"rlhf tune needs Optuna ({error}): pip install 'rlhf-envs[tune]'") from error
    with console.status("loading"), user_errors():
        from ..experiments.tune import report as tune_report
        from ..experiments.tune.search import tune
    with user_errors():
        result = tune(config, lambda text: console.print(text, markup=False, soft_wrap=True))
        file = tune_report.write(result)
    console.print(tune_report.confirmation_table(result))
    console.print(tune_report.summary(result), markup=False, soft_wrap=True)
    console.print(f"The section {config.algo!r} is in {file}, all trials in {config.folder() / 'report.md'}")
    console.print(f"[dim]rlhf train --env {config.env} --algo {config.algo} --settings {file}[/dim]", soft_wrap=True)
