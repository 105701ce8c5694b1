"""Say what a run would do, without doing it: what `rlhf train --dry-run` shows. Nothing is written.

The run's environment and agent are built, so every mistake that `rlhf train` finds before training is found here too.
The time comes from one rollout and its update, or as much of them as `SECONDS` allow, with an agent that is thrown
away. The memory is computed from shapes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from rlhf_envs.datasets import MissingSplitError
from rlhf_envs.datasets.splits import SPLITS

from ..registry import describe
from .building import build_agent, build_callbacks
from .config import AGENT_FIELDS, TrainConfig
from .human_feedback import human_rewards
from .memory import estimate_memory, show_bytes
from .progress import format_duration, planned_tokens
from .run import check_lag, check_start, resolve_config
from .trackers import check_trackers

__all__ = ["describe_run"]

SECONDS = 10.0  # at most, of the rollout that is measured


def describe_run(config: TrainConfig) -> list[tuple[str, str]]:
    """Return what a run would do, as pairs of a heading and a text.

    Raises:
        ValueError, TypeError, FileExistsError: the configuration is wrong, as for `prepare`.
    """
    check_trackers(config)
    check_lag(config)
    config = resolve_config(config)
    folder = config.folder()
    agent = build_agent(config)
    check_start(config, agent)
    build_callbacks(config, agent, folder)  # these have mistakes of their own
    assert config.n_timesteps is not None
    tokens, rollout = planned_tokens(agent, config.n_timesteps)
    n = tokens // rollout
    rollouts = f", {n:,} {'rollout' if n == 1 else 'rollouts'} of {rollout:,}" if rollout > 1 else ""
    people = any(reward.store is not None for reward in human_rewards(agent.get_env()))
    measured = None if people else _measure(agent, rollout if rollouts else tokens)
    pairs = [
        ("environment", f"{config.env_id}, {config.n_envs} episodes side by side"),
        ("rows", _rows(agent.get_env())),
        ("algorithm", f"{config.algo} ({type(agent).__name__})"),
        ("settings other than the defaults", ", ".join(_settings(config, agent))),
        ("model", _model(agent)),
        ("training", f"{tokens:,} tokens{rollouts}"),
        ("updates", _updates(measured, tokens)),
        ("evaluations", _evaluations(config, tokens, rollout)),
        ("memory", _memory(agent)),
        ("time", _time(config, measured, tokens, rollout, agent.get_env())),
        ("folder", f"{folder} (not made yet)"),
    ]
    agent.get_env().close()
    return [(heading, text) for heading, text in pairs if text]


@dataclass(frozen=True)
class _Measured:
    """Hold what a short training took: tokens, seconds of rollouts alone and in all, and steps of the optimiser."""

    tokens: int
    rollout_seconds: float
    seconds: float
    steps: int


class _Watch(BaseCallback):
    """Stop a training in a rollout when its time is over, and note the time of rollouts."""

    def __init__(self) -> None:
        super().__init__()
        self.started = self.begun = time.perf_counter()
        self.in_rollouts = 0.0

    def _on_rollout_start(self) -> None:
        self.begun = time.perf_counter()

    def _on_step(self) -> bool:
        return time.perf_counter() - self.started < SECONDS

    def _on_rollout_end(self) -> None:
        self.in_rollouts += time.perf_counter() - self.begun


def _measure(agent: Any, tokens: int) -> _Measured:
    """Train for so many tokens, or as many as there is time for. The agent is of no use after that."""
    steps = Counter[str]()
    if (optimizer := getattr(agent.policy, "optimizer", None)) is not None:
        optimizer.register_step_post_hook(lambda *_: steps.update(["all"]))
    agent.set_logger(Logger(None, []))  # else SB3 makes a folder for it
    watch = _Watch()
    agent.learn(tokens, watch)
    seconds = time.perf_counter() - watch.started
    return _Measured(max(int(agent.num_timesteps), 1), watch.in_rollouts or seconds, seconds, steps["all"])


def _rows(env: Any) -> str:
    """Return how many rows each split has; nothing for an environment that is not ours."""
    if not env.has_attr("episodes"):
        return ""
    episodes, found = env.get_attr("episodes", 0)[0], []
    for split in SPLITS:
        try:
            found.append(f"{split} {len(episodes.rows_of(split)):,}")
        except MissingSplitError:
            continue
    return ", ".join(found)


def _settings(config: TrainConfig, agent: Any) -> Iterator[str]:
    """Yield the settings that differ from those of the run, of the algorithm and of its parts."""
    classes = (type(agent), *describe(type(agent)).parts.values())
    defaults = {name: value for part in reversed(classes) for name, value in describe(part).defaults.items()}
    fields = {name: field.default for name, field in TrainConfig.model_fields.items() if name not in AGENT_FIELDS}
    given: Mapping[str, Any] = config.model_dump(exclude={"algo", "env", "hyperparams"}) | config.agent_kwargs()
    for name, value in given.items():
        if value is not None and value not in (fields.get(name), {}) and value != defaults.get(name):
            yield f"{name}={value}"


def _model(agent: Any) -> str:
    parameters = list(agent.policy.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    name = getattr(agent.policy, "model_name", None) or "a fresh model"
    return f"{name}: {trained:,} of {sum(parameter.numel() for parameter in parameters):,} parameters learn"


def _updates(measured: _Measured | None, tokens: int) -> str:
    if measured is None or not measured.steps:
        return ""
    return f"about {round(measured.steps * tokens / measured.tokens):,} steps of the optimiser"


def _evaluations(config: TrainConfig, tokens: int, rollout: int) -> str:
    during, watching = _count_evaluations(config, tokens, rollout)
    text = f"{config.test_episodes} {config.test_split} prompts before and after"
    text += f", {during} of {config.n_eval_episodes} episodes during training" if during else ""
    watchers = {"early stopping": config.early_stopping, "the alarm": config.alarm}
    names = " and ".join(name for name, value in watchers.items() if value is not None)
    return text + (f", at most {watching} of {config.n_eval_episodes} prompts for {names}" if watching else "")


def _count_evaluations(config: TrainConfig, tokens: int, rollout: int) -> tuple[int, int]:
    """Return how many evaluations there are during training, and how many more early stopping and the alarm make.

    Between two rollouts there is at most one of each. These two share theirs, also one before the first and at the end.
    """
    if config.eval_freq == 0:
        return 0, 0
    during, before_last = (min(n // config.eval_freq, n // rollout) for n in (tokens, tokens - rollout))
    watched = config.early_stopping is not None or config.alarm is not None
    return during, before_last + 2 if watched else 0


def _memory(agent: Any) -> str:
    """Return an estimate of the memory that a run holds, by its parts."""
    parts = estimate_memory(agent)
    shown = ", ".join(f"{name} {show_bytes(size)}" for name, size in parts.items())
    return f"about {show_bytes(sum(parts.values()))} beside the libraries: {shown}"


def _time(config: TrainConfig, measured: _Measured | None, tokens: int, rollout: int, env: Any) -> str:
    """Return an estimate of the time, and what it rests on."""
    if measured is None:
        return "not measured: people score the completions"
    training = measured.seconds / measured.tokens * tokens
    horizon = int(env.get_attr("max_new_tokens", 0)[0]) if env.has_attr("max_new_tokens") else 0
    episodes = 2 * config.test_episodes + sum(_count_evaluations(config, tokens, rollout)) * config.n_eval_episodes
    evaluating = episodes * horizon * measured.rollout_seconds / measured.tokens
    update = f"and {measured.steps} steps of the optimiser" if measured.steps else "without an update"
    return (
        f"about {format_duration(training)} of training, at most {format_duration(evaluating)} of evaluations without "
        f"judges: estimated from {measured.tokens:,} tokens {update}, {measured.seconds:.1f} s"
    )
