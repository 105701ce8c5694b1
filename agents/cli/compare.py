"""The command `rlhf compare`: algorithms on equal terms."""

from __future__ import annotations

import typer
from pydantic import Field, ValidationError

from ..experiments.compare.config import CompareConfig, read_settings
from .options import add_command, user_errors

__all__ = ["CompareFlags", "add_compare"]


class CompareFlags(CompareConfig):
    """The flags of `rlhf compare`: a comparison, or the file that describes one."""

    config: str | None = Field(None, description="TOML, YAML or JSON file of these settings; flags come before it.")


def add_compare(app: typer.Typer) -> None:
    """Add `rlhf compare` to the command line."""
    add_command(app, CompareFlags, "compare")(_compare)


def _read(flags: CompareFlags) -> CompareConfig:
    """The file's settings with the flags over them."""
    given = flags.model_dump(exclude={"config"}, exclude_unset=True)
    settings = {} if flags.config is None else read_settings(flags.config)
    try:
        return CompareConfig(**(settings | given))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{flags.config}: {where}: {message} (got {first['input']!r})") from error


def _compare(flags: CompareFlags) -> None:
    """Compare algorithms: equal tokens, prompts, reference, decoding and evaluation, several seeds each.

    Runs go side by side in processes. The folder gets a folder `<algorithm>/seed_<kk>` a run, report.md, report.html,
    report.json, plots/ and TensorBoard events. The same command goes on where one was stopped or killed, and tries
    failed runs again; with more --algos, --seeds or --kl-coefs it adds to what the folder has. It exits with 1 where
    a run failed.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    with user_errors():
        config = _read(flags)
        from rlhf_envs.registration import check_environment

        check_environment(config.env)
    with console.status("loading"), user_errors():
        from ..experiments.compare.compare import compare
        from ..experiments.compare.report import headline, summary_table
    try:
        with user_errors():
            comparison = compare(config, lambda text: console.print(text, markup=False, soft_wrap=True))
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on", markup=False)
        raise typer.Exit(130) from None
    head, rows = summary_table(comparison.report, ("reward", "kl"))
    table = Table(*head, title=Text(headline(comparison.report)), box=box.SIMPLE)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    for note in comparison.report.notes:
        console.print(f"- {note}", markup=False, soft_wrap=True)
    console.print(f"{comparison.seconds:.0f} s. See {comparison.folder / 'report.html'}", markup=False, soft_wrap=True)
    console.print(f"curves: tensorboard --logdir {comparison.folder}", markup=False, soft_wrap=True)
    if comparison.failed:
        raise typer.Exit(1)
