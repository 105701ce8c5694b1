"""Run the command `rlhf loop`: rounds of generate, ask, fit, RL and evaluate."""

from __future__ import annotations

import shlex

from rich.console import Console
from rich.table import Table

from ..experiments.loop.config import LoopConfig
from ..training.data_flags import ChatFlags
from ..training.fields import option
from .options import fail, from_file
from .tables import make_table

__all__ = ["LoopFlags", "loop"]


class LoopFlags(ChatFlags, LoopConfig):
    """Hold the flags of `rlhf loop`: the configuration of a run, or the folder of a run to go on with."""

    resume: str | None = option(None, "Folder of a run to go on with; of a finished one, with more --rounds.")
    config: str | None = option(
        None, "TOML, YAML or JSON file of settings for a new run, such as a run's config.json; flags come before it."
    )

    def check_askable(self) -> None:
        """Check nothing for a resumed run or beside a file: the flags are then no whole configuration."""
        if self.resume is None and self.config is None:
            super().check_askable()


def loop(flags: LoopFlags) -> None:
    """Learn from feedback in rounds: complete prompts, have pairs judged, fit a reward model, RL, evaluate, again.

    Simulated annotators judge the pairs, unless --people says how many of a round's pairs people judge: at the page of
    `rlhf feedback serve` or in the terminal. People and simulated annotators have a store each.
    The wait for people ends with --enough of the judgements, or once those who labelled have nothing left and nobody
    else came for --patience seconds. The run's folder <log-folder>/loop/<Env>_<k> gets config.json, feedback.db (with
    people also simulated.db), a folder for every step of every round, TensorBoard events, progress.csv, report.md,
    report.json, loop.png and model/ (a Hugging Face folder). A run that was stopped or killed at any point goes on with
    --resume. -n and the flags of RL mean the same as in `rlhf train`, per round.
    """
    console = Console()
    if None not in (flags.config, flags.resume):
        fail(f"--config {flags.config} with --resume: a run goes on with its own settings; leave one of them out")
    given = flags.model_dump(exclude={"config", "resume"}, exclude_unset=True)
    if flags.resume is not None:
        config = LoopConfig.of_folder(flags.resume, flags)
    elif flags.config is not None:
        config = from_file(LoopConfig, flags.config, given, ChatFlags)
    else:
        config = LoopConfig(**given)
    with console.status("loading"):
        from ..experiments.loop import aspects, loop, report
    result = loop.run_loop(config, flags.resume, lambda text: console.print(text, markup=False, soft_wrap=True))
    console.print(*_rounds_tables(console, *report.round_cells(result.report)), sep="\n")
    headings, rows = aspects.aspect_cells(result.report["rounds"])
    if rows:
        console.print(make_table(headings, rows, left=2))
    console.print(
        f"{result.report['judgements']} judgements, {result.report['tokens']:,} tokens, {result.seconds:.0f} s. "
        f"Everything is in {result.folder}, see report.md",
        markup=False,
        soft_wrap=True,
    )
    live = f"live: tensorboard --logdir {shlex.quote(str(config.log_folder))}"
    console.print(live, style="dim", markup=False, soft_wrap=True)


def _rounds_tables(console: Console, headings: list[str], rows: list[list[str]]) -> list[Table]:
    """Return a table with a row per round; where that is too wide, tables with a column per round."""

    def fits(table: Table) -> bool:
        return console.measure(table, options=console.options.update(width=100_000)).maximum <= console.width

    if fits(table := make_table(headings, rows, left=0)):
        return [table]
    for n in range(len(rows), 0, -1):  # rounds side by side, as many as there is room for
        parts = [rows[start : start + n] for start in range(0, len(rows), n)]
        tables = [make_table(first, rest) for first, *rest in (zip(headings, *part, strict=True) for part in parts)]
        if all(map(fits, tables)):
            break
    return tables
