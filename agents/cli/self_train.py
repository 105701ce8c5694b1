"""Run the command `rlhf self-train`: train a model on its own best answers."""

from __future__ import annotations

from rich.console import Console

from ..experiments.selftrain.config import SelfTrainConfig
from ..training.data_flags import DataFlags
from ..training.fields import option
from .options import fail
from .tables import make_table

__all__ = ["SelfTrainFlags", "self_train"]


class SelfTrainFlags(DataFlags, SelfTrainConfig):
    """Hold the flags of `rlhf self-train`: the configuration of a run, or the folder of a run to go on with."""

    resume: str | None = option(None, "Folder of a run to go on with; of a finished one, with more --rounds.")


def self_train(flags: SelfTrainFlags) -> None:
    """Train a model on its own best answers: draw several, score them, keep the best, fine-tune, and again.

    The environment's reward, or --reward, scores the answers to training prompts. Judges, which do not choose, measure
    each round on held-out prompts, with the KL to the start and the diversity of the answers. The run's folder
    <log-folder>/self-train/<Env>_<k> gets the answers of each round (round_<k>/draw/best.jsonl, which rlhf sft and rlhf
    train --algo sft --data read), its model, report.md, report.json, TensorBoard events and model/, the last one. A run
    that was killed at any point goes on with --resume.
    """
    console = Console()
    if flags.resume is not None:
        config = SelfTrainConfig.of_folder(flags.resume, flags)
    else:
        config = SelfTrainConfig(**flags.model_dump(exclude={"resume"}, exclude_unset=True))
        if config.model is None:
            fail("nothing to train: name a run or a model, as in rlhf self-train tiny --n 8")
    with console.status("loading"):
        from ..experiments.selftrain import report, run
    result = run.self_train(config, flags.resume, lambda text: console.print(text, markup=False, soft_wrap=True))
    console.print(make_table(*report.round_cells(result.report, (2,)), title=result.report["prompts"], left=0))
    if not result.report["judges"]:
        console.print("no judge beside the reward measured this: give --judge", style="yellow")
    done = f"{result.seconds:.0f} s. Everything is in {result.folder}, see report.md"
    console.print(done, markup=False, soft_wrap=True)
