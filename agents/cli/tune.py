"""Run the command `rlhf tune`: search settings of one algorithm on one environment."""

from __future__ import annotations

import shlex

from rich.console import Console

from rlhf_envs.registration import check_environment

from ..experiments.tune.config import TuneConfig
from ..registry import check_name
from ..training.data_flags import DataFlags
from ..training.fields import option
from .options import from_file
from .tables import make_table

__all__ = ["TuneFlags", "tune"]


class TuneFlags(DataFlags, TuneConfig):
    """Hold the flags of `rlhf tune`: a search, or the file that describes one."""

    config: str | None = option(None, "TOML, YAML or JSON file of these settings; flags come before it.")


def tune(flags: TuneFlags) -> None:
    """Search the settings of an algorithm with Optuna, and confirm them with seeds that the search has not used.

    A trial trains for --tokens and is judged by held-out episodes of the validation split. The first trial has the
    default settings. kl_coef is searched only if the objective is a judge or --kl-limit is given: otherwise the best
    KL penalty is none. <log-folder>/tune/<algo>/<Env> gets study.db, trials.csv, report.md and <Env>.yml, whose section
    `rlhf train --settings` takes. A search that was stopped goes on when the same command is given again: a trial whose
    process was killed counts as failed, and its settings are tried once more. Several processes may search together.
    """
    console = Console()
    given = flags.model_dump(exclude={"config"}, exclude_unset=True)
    config = TuneConfig(**given) if flags.config is None else from_file(TuneConfig, flags.config, given)
    check_name(config.algo)
    check_environment(config.env)
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ImportError(f"rlhf tune needs Optuna ({error}): pip install 'rlhf-envs[tune]'") from error
    with console.status("loading"):
        from ..experiments.tune import report, search
    result = search.tune(config, lambda text: console.print(text, markup=False, soft_wrap=True))
    file = report.write(result)
    console.print(make_table(("", "best", "default"), report.metrics(result), left=3))
    console.print(report.summary(result), markup=False, soft_wrap=True)
    where = f"The section {config.algo!r} is in {file}, all trials in {config.folder() / 'report.md'}"
    console.print(where, markup=False, soft_wrap=True)
    use = f"rlhf train --env {shlex.quote(config.env)} --algo {config.algo} --settings {shlex.quote(str(file))}"
    console.print(use, style="dim", markup=False, soft_wrap=True)
