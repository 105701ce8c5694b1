"""Build what a run begins with, and throw it away: so mistakes come before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..core.episodes import open_batch
from .building import build_agent
from .config import TrainConfig
from .progress import planned_tokens
from .run import check_budget

__all__ = ["planned", "rehearsed"]


@contextmanager
def rehearsed(config: TrainConfig, splits: Sequence[str] = ()) -> Iterator[Any]:
    """Yield the agent that a run of a resolved configuration would begin with. It is closed with the `with`.

    Args:
        config: the configuration, with its defaults.
        splits: those of the data that evaluations will complete prompts of.

    Raises:
        ValueError, TypeError, OSError: a setting is wrong, a split has no rows, or the run is shorter than an episode.
    """
    agent = build_agent(config)
    try:
        check_budget(config, agent)
        for split in splits:
            open_batch(config.env_id, 1, **{**config.held_out_kwargs(), "split": split})
        yield agent
    finally:
        agent.get_env().close()


def planned(agent: Any, asked: int) -> str:
    """Return how many tokens a run trains for, and how many were asked for if that is not whole rollouts."""
    tokens, rollout = planned_tokens(agent, asked)
    return f"{tokens:,} tokens" + (f" ({asked:,} rounded up to rollouts of {rollout:,})" if tokens != asked else "")
