"""Build the command line `rlhf <verb>`. Torch is imported only when a verb runs, so that `rlhf --help` is quick."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from rlhf_envs import privacy

from ..saving.provenance import versions
from ..training.phases import error_console
from ..training.threads import choose_threads
from . import (
    compare,
    envs,
    evaluate,
    explain,
    export,
    feedback,
    generate,
    lists,
    loop,
    mask,
    pretrain,
    reward,
    self_train,
    serve,
    serve_env,
    sft,
    train,
    transfer,
    tune,
)
from .options import OneLineErrors, add_command

__all__ = ["app"]

HELP = "RLHF as Gymnasium environments: ask people, fit rewards, train and evaluate language models."

# They compute in this process, on all cores; `compare` starts processes of one thread.
COMPUTING = ("train", "evaluate", "attack", "explain", "tune", "loop", "pretrain", "sft", "self-train", "export")

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    cls=OneLineErrors,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_versions(given: bool) -> None:
    if given:
        for package, number in versions().items():
            typer.echo(f"{package} {number}")
        raise typer.Exit


@app.callback(help=HELP)
def main(
    context: typer.Context,
    show_versions: Annotated[
        bool, typer.Option("--version", callback=_show_versions, is_eager=True, help="Show the versions and exit.")
    ] = False,
) -> None:
    """Let modules in the working directory be imported, as `python -m` does, and choose the number of threads."""
    if os.environ.get("RLHF_MASK_LOGS", "0") not in ("", "0"):
        context.with_resource(privacy.masked_logs())
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    if context.invoked_subcommand in COMPUTING and (chosen := choose_threads()) is not None:
        error_console().print(chosen, style="dim", markup=False)


add_command(app, train.TrainFlags, "train")(train.train)
add_command(app, evaluate.EvaluateFlags, "evaluate")(evaluate.evaluate)
add_command(app, generate.GenerateConfig, "generate")(generate.generate)
add_command(app, generate.ChatConfig, "chat")(generate.chat)
add_command(app, evaluate.AttackConfig, "attack")(evaluate.attack)
add_command(app, explain.ExplainConfig, "explain")(explain.explain)
add_command(app, compare.CompareFlags, "compare")(compare.compare)
add_command(app, transfer.TransferFlags, "transfer")(transfer.transfer)
add_command(app, tune.TuneFlags, "tune")(tune.tune)
add_command(app, loop.LoopFlags, "loop")(loop.loop)
app.add_typer(feedback.feedback_app, name="feedback")
app.add_typer(reward.reward_app, name="reward")
add_command(app, pretrain.PretrainConfig, "pretrain")(pretrain.pretrain)
add_command(app, sft.SFTConfig, "sft")(sft.sft)
add_command(app, self_train.SelfTrainFlags, "self-train")(self_train.self_train)
app.add_typer(envs.envs_app, name="envs")
add_command(app, export.ExportConfig, "export")(export.export)
app.add_typer(serve.serve_app, name="serve")
add_command(app, serve_env.ServeEnvConfig, "serve-env")(serve_env.serve_env)
add_command(app, mask.MaskConfig, "mask")(mask.mask)
app.command("algos")(lists.algos)
app.command("rewards")(lists.rewards)
app.command("models")(lists.models)
