"""The command `rlhf loop`: rounds of generate, ask, fit, RL and evaluate."""

from __future__ import annotations

import typer
from pydantic import Field

from ..experiments.loop.config import LoopConfig, find_loop
from .options import add_command, user_errors

__all__ = ["LoopFlags", "add_loop"]


class LoopFlags(LoopConfig):
    """The flags of `rlhf loop`: the configuration of a run, or the folder of one to go on with."""

    resume: str | None = Field(
        None, description="Folder of a run to go on with; of a finished one, with more --rounds."
    )

    def check_askable(self) -> None:
        """Beside --resume flags are no whole configuration: `find_loop` compares each with the run's."""
        if self.resume is None:
            super().check_askable()


def add_loop(app: typer.Typer) -> None:
    """Add `rlhf loop` to the command line."""
    add_command(app, LoopFlags, "loop")(_loop)


def _loop(flags: LoopFlags) -> None:
    """Learn from feedback in rounds: complete prompts, have pairs judged, fit a reward model, RL, evaluate, again.

    Simulated annotators judge unless --people says for how many of a round's pairs people are waited for, at the page
    of `rlhf feedback serve` or in the terminal; these pairs are in another store than the simulated annotators' ones.
    The wait ends with --enough of the judgements, or when those who labelled have nothing left and for --patience
    seconds nobody else came. The run's folder <log-folder>/loop/<Env>_<k> gets config.json, feedback.db (beside people
    simulated.db too), a folder for every step of every round, TensorBoard events, progress.csv, report.md, report.json,
    loop.png and model/ (a Hugging Face folder). A run that was stopped or killed, wherever, goes on with --resume. -n
    and the flags of RL are those of `rlhf train`, a round.
    """
    from rich.console import Console

    console = Console()
    with user_errors():
        if flags.resume is not None:
            config = find_loop(flags.resume, flags)
        else:
            config = LoopConfig(**flags.model_dump(exclude={"resume"}, exclude_unset=True))
    with console.status("loading"), user_errors():
        from ..experiments.loop.loop import run_loop
        from ..experiments.loop.report import report_table
        from ..training.run import RunInterrupted

    try:
        with user_errors():
            result = run_loop(config, flags.resume, lambda text: console.print(text, markup=False, soft_wrap=True))
    except RunInterrupted as interrupted:
        console.print(str(interrupted), markup=False, soft_wrap=True)
        return
    console.print(report_table(result.report))
    console.print(
        f"{result.report['judgements']} judgements, {result.report['tokens']:,} tokens, {result.seconds:.0f} s. "
        f"Everything is in {result.folder}, see report.md"
    )
    console.print(f"[dim]live: tensorboard --logdir {config.log_folder}[/dim]")
