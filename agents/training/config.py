"""Describe a run by one documented pydantic model. Its fields are the flags of `rlhf train`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from filelock import BaseFileLock
from pydantic import field_validator, model_validator

from rlhf_envs.registration import describe, text_environments

from ..saving.folders import clear, is_restartable
from ..saving.locks import take
from ..saving.untrusted import read_engine, read_env_id, read_env_kwargs, read_ray_address, read_reward
from .aspects import ASPECTS, has_limits, with_aspects
from .fields import Algorithm, Environment, LogFolder, Model, Pairs, Part, Trackers, option
from .hyperparams import default_hyperparams
from .resumable import Resumable

__all__ = ["REWARDS", "TrainConfig"]

logger = logging.getLogger(__name__)

AGENT_FIELDS = ("model", "train", "kl_coef", "kl_target", "learning_rate", "sft_coef", "sft_data")
REWARDS = ("constraint", "judge")  # fields that name rewards
OWN = ("seed", "device", "verbose")  # arguments of agents that a run has by itself


class TrainConfig(Resumable):
    """Hold the configuration of a run. Defaults by algorithm come from `agents/training/settings/<Env>.yml`."""

    # What it configures, with a field that all of them have; and the flags that may change with --resume. (Another
    # number of threads may round differently in the last bits.)
    kind: ClassVar[tuple[str, str]] = ("run", "algo")
    free: ClassVar[tuple[str, ...]] = (
        *("progress", "verbose", "threads", "device"),
        *("engine", "engine_sync", "engine_folder"),
        *("tracker", "project", "shard"),
        *("workers", "ray_address", "async_rollouts"),
        *("worker_retries", "worker_cpus", "worker_gpus", "worker_wait"),
    )
    more: ClassVar[tuple[str, ...]] = ("n_timesteps",)  # flags that --resume may raise

    algo: Algorithm = option("ppo", "Algorithm, such as ppo, rloo or dqn, see `rlhf algos`.")
    env: Environment = option(
        "rlhf/Sentiment-v0", "Environment id, see `rlhf envs`; 'module:id' and 'file.py:id' import that first."
    )
    n_timesteps: int | None = option(None, "Tokens to train for.", "-n", "--n-timesteps", "--tokens", gt=0)
    seed: int = option(0, "Seeds the environments, the model and the sampling.", ge=0, lt=2**32)
    n_envs: int | None = option(None, "Episodes that run side by side.", gt=0)
    model: Model | None = option(
        None, "Model to train: tiny, smollm2, a folder or a hub id. The environment's own by default."
    )
    train: Part = None
    kl_coef: float | None = option(None, "Coefficient of the KL penalty; 0 turns it off.", ge=0)
    kl_target: float | None = option(None, "KL per episode, in nats, that the coefficient is steered to.", gt=0)
    learning_rate: float | None = option(None, "Learning rate.", gt=0)
    lr_schedule: Literal["constant", "linear", "cosine"] = option(
        "constant", "constant, or how the learning rate goes down to 0 over the run: linear, cosine."
    )
    sft_data: str | None = option(None, "File of good completions to learn beside the reward, as `rlhf sft` reads it.")
    sft_coef: float | None = option(None, "Weight of their cross-entropy in the loss; 0 for none.", ge=0)
    hyperparams: Pairs = option(
        {}, "Further arguments of the algorithm, the policy or the buffer; repeat the flag.", "-params", "--hyperparams"
    )
    env_kwargs: Pairs = option(
        {}, "Arguments of the environment, such as max_new_tokens:24 or data:my.jsonl; repeat the flag."
    )
    constraint: str | None = option(
        None, "Cost to keep at or below --limit: a registered reward, a folder, my_module:score or my_file.py:score."
    )
    limit: float | None = option(None, "Limit of the mean cost per episode, for --constraint.", allow_inf_nan=False)
    multiplier_start: float = option(0.0, "First price of --constraint's cost.", ge=0, allow_inf_nan=False)
    multiplier_step: float = option(
        0.1, "How far the price of a limit moves per rollout for a cost 1 above it.", gt=0, allow_inf_nan=False
    )
    multiplier_proportional: float = option(
        0.0, "How much higher it is at once for a cost 1 above it: against swings.", ge=0, allow_inf_nan=False
    )
    aspects: str | None = option(None, ASPECTS)
    settings: str | None = option(
        None, "YAML file of settings by algorithm, instead of ours in agents/training/settings/."
    )
    engine: str | None = option(None, "Address of a server that draws the completions, such as http://localhost:8000.")
    engine_sync: Literal["vllm", "sglang", "folder"] = option(
        "vllm", "How it gets new weights: as vLLM or SGLang do, or from the folder that requests name as the model."
    )
    engine_folder: str | None = option(
        None, "Where the weights are written for it, on a disk that it reads too; a temporary folder by default."
    )
    workers: int = option(
        0, "Ray actors that collect the rollouts, each in its part of the environments; 0 collects them here.", ge=0
    )
    ray_address: str | None = option(
        None,
        "Ray cluster for --workers, such as auto; RAY_ADDRESS, or one of the run's own here by default.",
    )
    async_rollouts: int = option(
        0, "Updates that rollouts of --workers may lag behind, weighted for it: 0 or 1.", "--async", ge=0, le=1
    )
    worker_retries: int = option(3, "Times that a rollout of a worker which dies is collected again.", ge=0)
    worker_cpus: int = option(1, "CPUs, and threads of torch, of each of --workers.", gt=0)
    worker_gpus: float = option(0.0, "GPUs of each of --workers, or the part of one; 0 collects on CPUs.", ge=0)
    worker_wait: float = option(
        300.0, "Seconds to wait for a free place in the cluster for a worker, as when a node is being started.", gt=0
    )
    wandb: str | None = option(None, "Project of Weights & Biases to log to; --tracker wandb with a project.")
    tracker: Trackers = []
    project: str = option("rlhf-envs", "Project of the trackers; in MLflow the experiment.")
    log_folder: LogFolder = "logs"
    run_name: str | None = option(None, "Name of this run's folder; <Env>_<k> by default.")
    eval_freq: int = option(16_384, "Tokens between evaluations during training; 0 for none.", ge=0)
    n_eval_episodes: int = option(64, "Episodes per evaluation during training.", gt=0)
    early_stopping: str | None = option(
        None, "Metric that ends the run when it no longer rises on validation prompts, such as gold; the best is kept."
    )
    eval_patience: int | None = option(
        None, "Evaluations in a row without a rise that end the run. Default: 3.", "--patience", gt=0
    )
    alarm: Literal["warn", "stop"] | None = option(
        None,
        "When the reward and the task's judge part on validation prompts: warn, or stop and keep the agent before.",
    )
    judge: list[str] | None = option(
        None, "Reward that evaluations score by too; repeat. --alarm goes by the first. The task's judges by default."
    )
    save_freq: int = option(0, "Tokens between checkpoints; 0 for none but on signals and errors.", ge=0)
    keep_checkpoints: int = option(3, "Checkpoints that stay; older ones are deleted.", gt=0)
    test_episodes: int = option(256, "Held-out prompts completed before and after.", ge=2)
    test_split: Literal["test", "validation", "train"] = option(
        "test", "Split of these prompts; with train, tables call them training prompts."
    )
    shard: bool = option(
        False,
        "Share weights, gradients and the optimizer's state among the ranks (FSDP), instead of copying them.",
        "--shard/--no-shard",
    )
    device: str = option("auto", "auto, cpu or cuda.")
    threads: int | None = option(None, "CPU threads of torch; all cores by default.", gt=0)
    verbose: int = option(0, "1 prints SB3's table after every rollout.", ge=0, le=2)
    progress: bool = option(
        True,
        "Show a progress bar, or a line per rollout where stderr is no terminal.",
        "-P",
        "--progress/--no-progress",
    )

    @field_validator("hyperparams")
    @classmethod
    def _no_doubles(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in OWN:
            if name in value:
                raise ValueError(f"{name} is a setting of the run: give it as --{name} {value[name]}")
        return value

    @model_validator(mode="after")
    def _with_aspects(self) -> Self:
        if self.aspects is not None:
            self.env_kwargs = with_aspects(self.env_kwargs, self.aspects)
        return self

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.constraint is not None and self.limit is None:
            raise ValueError(f"constraint={self.constraint} has no limit: give --limit too, such as 0.1")
        if self.limit is not None and self.constraint is None:
            raise ValueError(f"limit={self.limit} needs a cost: give --constraint too, such as repetition")
        start, moves = ("multiplier_start",), ("multiplier_step", "multiplier_proportional")
        changed = [n for n in start + moves if getattr(self, n) != type(self).model_fields[n].default]
        if changed and self.constraint is None:
            read = moves if self.has_limits() else ()
            if unread := [name for name in changed if name not in read]:
                raise ValueError(
                    f"{unread[0]}={getattr(self, unread[0]):g} is for the price of a cost: give --constraint and "
                    f"--limit too{'' if unread[0] in start else ', or --aspects with a limit'}"
                )
        if self.early_stopping is not None and self.eval_freq == 0:
            raise ValueError(f"early_stopping={self.early_stopping} needs evaluations: give --eval-freq above 0")
        if self.eval_patience is not None and self.early_stopping is None:
            raise ValueError(
                f"eval_patience={self.eval_patience} is for early stopping: give --early-stopping too, such as gold"
            )
        for name in ("early_stopping", "alarm") if self.shard else ():
            if (value := getattr(self, name)) is not None:
                raise ValueError(
                    f"{name}={value} with shard: it asks the reference and saves agents on the first rank alone, which "
                    "has a part of them; leave one of the two out"
                )
        if self.alarm is not None and self.eval_freq == 0:
            raise ValueError(f"alarm={self.alarm} needs evaluations: give --eval-freq above 0")
        if self.alarm == "stop" and self.early_stopping is not None:
            raise ValueError(
                f"alarm=stop with early_stopping={self.early_stopping}: each keeps an agent of its own; take alarm=warn"
            )
        return self

    def has_limits(self) -> bool:
        """Return whether aspects are the reward, one of which has a limit."""
        return has_limits(self.env_kwargs)

    @property
    def env_id(self) -> str:
        """Return the environment's id, without the module before it."""
        return self.env.rpartition(":")[2]

    @property
    def trackers(self) -> list[str]:
        """Return the names of the trackers to log to, beside TensorBoard."""
        names = [*(["wandb"] if self.wandb is not None else []), *self.tracker]
        return [name for name in dict.fromkeys(names) if name != "tensorboard"]

    @property
    def tracker_folder(self) -> Path:
        """Return the folder with the files of trackers, which runs share."""
        return Path(self.log_folder)

    def resolved(self) -> TrainConfig:
        """Return the configuration with every default filled in, as `config.json` has it."""
        defaults = default_hyperparams(self.env_id, self.algo, self.settings)
        given = {name: getattr(self, name) for name in (*AGENT_FIELDS, "n_timesteps", "n_envs")}
        defaults |= self._scaled_batch(defaults)
        if self.settings is None and self.env_kwargs.get("data") is not None:
            defaults.pop("where", None)  # ours picks rows of the bundled data
        if self.has_limits():  # the aspects say what is limited
            defaults = {name: value for name, value in defaults.items() if name not in ("cost", "cost_limit", "costs")}
        chosen = defaults | self.hyperparams | {name: value for name, value in given.items() if value is not None}
        fields = {name: chosen.pop(name, None) for name in given}
        return self.model_validate(self.model_dump() | fields | {"hyperparams": chosen})

    def _scaled_batch(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Return a `batch_size` that is as large a part of a rollout as in the settings, for another `n_envs`."""
        before, usual = defaults.get("batch_size"), defaults.get("n_envs")
        if "batch_size" in self.hyperparams or not before or not usual or self.n_envs in (None, usual):
            return {}
        horizon = self.env_kwargs.get("max_new_tokens")
        if horizon is None and self.env_id in text_environments():
            horizon = describe(self.env_id).max_new_tokens
        if not isinstance(horizon, int):
            return {}
        size = max(before * self.n_envs // usual, horizon)  # minibatches are made of whole episodes
        message = "n_envs=%d instead of %d: batch_size is %d instead of %d; -params batch_size:%d keeps it"
        logger.warning(message, self.n_envs, usual, size, before, before)
        return {"batch_size": size}

    def agent_kwargs(self) -> dict[str, Any]:
        """Return the keyword arguments of `agents.make`."""
        fields = {name: getattr(self, name) for name in AGENT_FIELDS}
        given = {name: value for name, value in fields.items() if value is not None} | self.hyperparams
        if self.engine is not None:
            given |= {"engine": self.engine, "engine_kwargs": self.engine_kwargs()}
        return given

    def engine_kwargs(self) -> dict[str, Any]:
        """Return the arguments of `set_engine` after the address."""
        flags = {"sync": self.engine_sync, "folder": self.engine_folder}
        return flags | self.hyperparams.get("engine_kwargs", {})

    def environment_kwargs(self) -> dict[str, Any]:
        """Return the arguments of the training environment. The model is one: its tokenizer is the vocabulary."""
        return {**({} if self.model is None else {"model": self.model}), **self.env_kwargs}

    def held_out_kwargs(self) -> dict[str, Any]:
        """Return the arguments of the training environment without the split, which evaluations choose."""
        return {name: value for name, value in self.environment_kwargs().items() if name != "split"}

    def folder(self) -> Path:
        """Return the run's folder, named as in rl_zoo3: `<log_folder>/<algo>/<Env>_<k>` with the next free k.

        Raises:
            FileExistsError: `run_name` is given, and that folder holds a run, or something else.
        """
        parent = Path(self.log_folder) / self.algo
        if self.run_name is not None:
            folder = parent / self.run_name
            if folder.exists() and not is_restartable(folder):
                raise FileExistsError(f"the run folder {folder} exists: choose another --run-name, or --resume it")
            return folder
        name = self.env_id.rpartition("/")[2]
        taken = [p.name.removeprefix(f"{name}_") for p in parent.glob(f"{name}_*")]
        return parent / f"{name}_{1 + max((int(k) for k in taken if k.isdecimal()), default=0)}"

    def claim(self) -> tuple[Path, BaseFileLock]:
        """Make the folder, and return it with its lock. Runs that start at the same moment get different folders.

        What a run of this name has left that ended before its first checkpoint is removed.

        Raises:
            FileExistsError: see `folder`.
            ValueError: another process has the folder.
        """
        while True:
            folder = self.folder()
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                if self.run_name is None:  # another process has made it since
                    continue
            lock = take(folder, self.kind[0])
            if is_restartable(folder):
                clear(folder)
                return folder, lock
            lock.release()  # another process has trained there since

    def check_imports(self, source: str, given: TrainConfig) -> None:
        """Raise ValueError if this configuration, which a file has, would import or ask what is not `given` too."""
        if "env" not in given.model_fields_set:
            read_env_id(self.env, source)
        read_env_kwargs(self.env_kwargs, source, given.env_kwargs, env_id=self.env)
        for name in REWARDS:
            if name not in given.model_fields_set:
                read_reward(getattr(self, name), source, name)
        named = {name: getattr(given, name) for name in given.model_fields_set}
        read_engine(vars(self), source, named)
        read_ray_address(vars(self), source, named)
