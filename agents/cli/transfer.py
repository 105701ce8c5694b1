"""Run the command `rlhf transfer`: measure what training on one environment does to others."""

from __future__ import annotations

import typer
from rich.console import Console

from ..experiments.transfer.config import TransferConfig, check_file_environments
from ..training.config_file import read_config_file
from ..training.fields import option
from .options import fail, from_file
from .tables import make_table

__all__ = ["TransferFlags", "transfer"]


class TransferFlags(TransferConfig):
    """Hold the flags of `rlhf transfer`: an experiment, or the file that describes one."""

    config: str | None = option(None, "TOML, YAML or JSON file of these settings; flags come before it.")


def _read(flags: TransferFlags) -> TransferConfig:
    """Return the file's settings, replaced by the flags that are given."""
    given = flags.model_dump(exclude={"config"}, exclude_unset=True)
    if flags.config is None:
        return TransferConfig(**given)
    envs = read_config_file(flags.config, TransferConfig.model_fields, given).get("envs")
    if envs and "envs" not in given:
        try:
            check_file_environments(envs, flags.config)
        except ValueError as error:
            fail(f"{flags.config}: {error}")
    return from_file(TransferConfig, flags.config, given)


def transfer(flags: TransferFlags) -> None:
    """Train an agent per environment, and measure every one on all: a matrix of what training on one does to others.

    The environments share a vocabulary, a start and an algorithm, such as --envs rlhf/Sentiment-v0,rlhf/SpamFilter-v0.
    With --sequence they are learned one after another, and forgetting is measured. Finished runs of `rlhf train` may be
    given instead. The folder gets a folder `<environment>/seed_<kk>` per run, report.md, report.html, report.json,
    matrix.csv and plots/. The same command goes on where one was stopped or killed, and tries failed runs again; with
    more --envs or --seeds it adds to what the folder has. It exits with 1 if a run failed.
    """
    console = Console()
    config = _read(flags)
    with console.status("loading"):
        from ..experiments.transfer import report, transfer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        done = transfer.transfer(config, lambda text: console.print(text, markup=False, soft_wrap=True))
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on", markup=False)
        raise typer.Exit(130) from None
    found = done.report
    caption = f"change from the start, with 95% intervals over {'seeds' if found.seeds > 1 else 'prompts'}"
    console.print(make_table(*report.matrix_table(found), title=report.headline(found), caption=caption))
    if found.forgetting:
        console.print(make_table(["forgotten", "95% interval"], report.forgetting_rows(found)))
    for note in found.notes:
        console.print(f"- {note}", markup=False, soft_wrap=True)
    console.print(f"{done.seconds:.0f} s. See {done.folder / 'report.html'}", markup=False, soft_wrap=True)
    if done.failed:
        raise typer.Exit(1)
