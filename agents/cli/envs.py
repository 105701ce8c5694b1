"""Run the command `rlhf envs`: list the environments."""

from __future__ import annotations

from rich.console import Console

from rlhf_envs.registration import describe, text_environments
from rlhf_envs.tasks.results import describe_result

from .tables import make_table

__all__ = ["envs"]


def envs() -> None:
    """List the environments."""
    rows = []
    for env_id in text_environments():
        d = describe(env_id)
        size = "" if d.vocab_size is None else str(d.vocab_size)
        rows.append(
            (
                env_id,
                d.reward,
                d.model or "none",
                size,
                str(d.max_prompt_tokens),
                str(d.max_new_tokens),
                describe_result(env_id),
            )
        )
    headings = ("id", "reward", "model", "vocab", "prompt", "new", "measured")
    console = Console()
    console.print(make_table(headings, rows, left=3, no_wrap=("id", "vocab", "prompt", "new")))
    console.print("measured: a metric that is not the reward, before and after training (python -m benchmarks.tasks)")
    console.print("prompt, new: the most tokens of each; change with --env-kwargs max_new_tokens:24")
