"""Run the command `rlhf train`: train an agent."""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from rlhf_envs.registration import check_environment, task_of
from rlhf_envs.tasks.lookup import arguments_of
from rlhf_envs.tasks.results import read_results

from ..registry import check_name
from ..scale.launch import is_rank, launch
from ..training.config import TrainConfig
from ..training.data_flags import DataFlags
from ..training.fields import option
from ..training.phases import show_phase, without_collection
from . import tables
from .options import fail, from_file, say_error

if TYPE_CHECKING:
    from ..training.report import TrainResult
    from ..training.run import Prepared

__all__ = ["TrainFlags", "advise", "train"]


class TrainFlags(DataFlags, TrainConfig):
    """Hold the flags of `rlhf train`: the configuration of a run, or the folder of a run to go on with."""

    resume: str | None = option(
        None, "Folder of a run to go on with, from its newest intact checkpoint; with a larger -n it is extended."
    )
    config: str | None = option(
        None, "TOML, YAML or JSON file of settings for a new run, such as a run's config.json; flags come before it."
    )
    nproc: int | None = option(
        None, "Ranks: processes of this machine that share the environments and each update, as of torchrun.", gt=0
    )
    dry_run: bool = option(
        False, "Say what would run, with estimates of memory and time, and write nothing; it trains for seconds."
    )


def train(flags: TrainFlags) -> None:
    """Train an agent, and show its completions before and after.

    The run's folder <log-folder>/<algo>/<Env>_<k> gets config.json, TensorBoard events, progress.csv, curves.png,
    evaluations.npz, samples.md, report.json, model/ (a Hugging Face folder), agent/ (a bundle of safetensors and JSON,
    agents.load reads it) and, with --save-freq, checkpoints/ (bundles too). SIGTERM and Ctrl-C end a run with a
    checkpoint; --resume goes on from it.
    """
    started = time.perf_counter()
    console = Console()
    config = _configured(flags)
    if flags.resume is None:  # mistakes are reported before torch is loaded
        check_name(config.algo)
        check_environment(config.env)
        config.folder()
    if config.shard and flags.resume is None and (flags.dry_run or not ((flags.nproc or 1) > 1 or is_rank())):
        instead = (
            "--dry-run reckons with one process" if flags.dry_run else "give --nproc 2 too, or start it by torchrun"
        )
        fail(f"--shard: the ranks of a run share its weights: {instead}")
    if (flags.nproc or 1) > 1 and not (is_rank() or flags.dry_run):
        launch(flags.nproc or 1, sys.argv[1:], say_error)
        return
    with show_phase("loading", config.progress and not is_rank(), line=False), without_collection():
        from ..scale import follower, group, learner
        from ..training import dry_run, rehearsal, resume, run

    if flags.dry_run:
        if config.workers:
            learner.check_workers(run.resolve_config(config))
        console.print(tables.make_table(("", ""), dry_run.describe_run(config), left=2))
        return
    with group.taking_part() if is_rank() else nullcontext():
        if flags.resume is not None:
            config = TrainConfig.of_folder(flags.resume, config)
            if resume.is_finished(flags.resume, config):
                early = "" if config.early_stopping is None and config.alarm != "stop" else ", unless it stopped early"
                if group.is_first():
                    console.print(
                        f"nothing to do: the run in {flags.resume} is finished; a larger -n extends it{early}"
                    )
                return
        if not group.is_first():
            follower.follow(config, flags.resume is not None)
            return
        with learner.collecting(config) if config.workers else nullcontext() as collector:
            if flags.resume is None:
                prepared = run.prepare(config if collector is None else collector.config, collector)
            else:
                with show_phase("loading, and evaluating before training", config.progress):
                    prepared = resume.prepare_resumed(flags.resume, config, collector)
            planned = rehearsal.planned(prepared.agent, prepared.config.n_timesteps or 0)
            _announce(prepared, flags, planned, console)
            result = run.train(prepared)
        _report(result, console, started)


def _announce(prepared: Prepared, flags: TrainFlags, planned: str, console: Console) -> None:
    """Say what is about to be trained, for how many tokens."""
    config = prepared.config
    done = f", {prepared.agent.num_timesteps:,} of them done" if flags.resume is not None else ""
    policy = prepared.agent.policy
    model = escape(str(policy.base_name or policy.model_name or "a fresh model"))
    console.print(
        f"[bold]{config.algo}[/bold] on [bold]{config.env_id}[/bold] with {model}: {planned}{done}, {prepared.folder}"
    )
    if flags.resume is None and (advice := advise(config)) is not None:
        console.print(advice, style="yellow", markup=False)


def _report(result: TrainResult, console: Console, started: float) -> None:
    """Show completions and figures before and after, and where the run is."""
    console.print(tables.samples_table(result.before, result.after))
    console.print(tables.change_table(result))
    if (kept := result.early_stopping) is not None:
        console.print(
            f"{'stopped early: ' if kept['stopped'] else ''}{kept['metric']} was best ({kept['best']:.4g}) after "
            f"{kept['best_timesteps']:,} tokens, and that agent is kept: 'after', model/ and best/ are of it"
        )
    if result.alarm is not None and result.alarm["rang"]:
        before = " The agent before is kept: 'after', model/ and best/ are of it." if result.alarm["stopped"] else ""
        console.print(f"{result.alarm['message']}.{before}", markup=False)
    seconds = time.perf_counter() - started
    tokens = result.agent.num_timesteps
    took = f"{tokens - result.resumed_at:,} of them in this part, in {seconds:.0f} s"
    took = took if result.resumed_at else f"{seconds:.0f} s in all"
    console.print(f"{tokens:,} tokens, {took}. Everything is in {result.folder}", markup=False, soft_wrap=True)
    live = f"live: tensorboard --logdir {shlex.quote(str(result.config.log_folder))}"
    console.print(f"curves: {result.folder / 'curves.png'}   {live}", style="dim", markup=False, soft_wrap=True)


def _configured(flags: TrainFlags) -> TrainConfig:
    """Return the configuration of the flags and of the file that they name."""
    if None not in (flags.config, flags.resume):
        fail(f"--config {flags.config} with --resume: a run goes on with its own settings; leave one of them out")
    if flags.dry_run and flags.resume is not None:
        fail(f"--dry-run with --resume {flags.resume}: it is for new runs; leave one of them out")
    given = flags.model_dump(exclude={"config", "dry_run", "nproc", "resume"}, exclude_unset=True)
    return TrainConfig(**given) if flags.config is None else from_file(TrainConfig, flags.config, given)


def advise(config: TrainConfig) -> str | None:
    """Return how to make the start that agents learn this task from; None if the run has a start, or needs none."""
    task = task_of(config.env_id, **config.env_kwargs)
    if task is None or task.start is None or config.model not in (None, task.default_model):
        return None
    own = {name: config.env_kwargs[name] for name in arguments_of(config.env_id) if name in config.env_kwargs}
    source = config.env_id if config.env_kwargs.get("data") is None else "DATA"
    before, base = "", ""
    if task.pretraining is not None:
        before = f"`rlhf pretrain {task.pretraining}` makes a model that knows its language, "
        base = f"--model {task.pretraining.split()[1]}"
    words = ["rlhf sft", source, "start", base, task.start]
    if source == config.env_id:
        words += [f"--env-kwargs {shlex.quote(f'{name}:{value}')}" for name, value in own.items()]
    command = " ".join(filter(None, words))
    found = read_results().get(config.env_id, {})
    algo = f"--algo {found['algo']}" if found.get("algo", config.algo) != config.algo else ""
    flags = " ".join(filter(None, [algo, found.get("flags"), "--model start"]))
    as_measured = "" if flags == "--model start" else ", as it was measured"
    return (
        f"{task.default_model} has not learned what answers look like here, and may not find out by trying: "
        f"{before}`{command}` makes a start, and `{flags}` trains from it{as_measured}"
    )
