"""What a run leaves to look at: tables on the terminal, `report.json`, `samples.md` and `curves.png` in its folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .plots import plot_curves, read_progress

if TYPE_CHECKING:
    from ..evaluation.evaluate import Evaluation
    from .run import TrainResult

__all__ = ["write"]


def write(result: TrainResult) -> None:
    """Write `report.json`, `samples.md` and `curves.png` into the folder of a run."""
    config, before, after = result.config, result.before, result.after
    tokens = int(result.agent.num_timesteps)
    report = {
        "algo": config.algo,
        "env": config.env_id,
        "seed": config.seed,
        "n_timesteps": tokens,
        "seconds": round(result.seconds, 2),
        "before": before.to_dict(),
        "after": after.to_dict(),
        "change": {name: estimate.to_dict() for name, estimate in after.change_from(before).items()},
    }
    (result.folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (result.folder / "samples.md").write_text(samples_markdown(before, after), encoding="utf-8")
    plot_curves(
        read_progress(result.folder / "progress.csv"),
        result.folder / "curves.png",
        title=f"{config.algo} on {config.env_id}, seed {config.seed}",
        judges=tuple(after.judges),
        kl_target=config.kl_target,
        held_out={0: before.estimates(), tokens: after.estimates()},
    )


def samples_markdown(before: Evaluation, after: Evaluation, n: int = 16) -> str:
    """The completions as Markdown, with what models wrote escaped."""
    from rlhf_envs.rendering import as_markdown

    lines = ["# The same held-out prompts before and after", ""]
    for first, second in list(zip(before.completions, after.completions, strict=True))[:n]:
        for name, c in (("before", first), ("after", second)):
            prompt, completion = (as_markdown(text) for text in (c.prompt, c.completion.strip()))
            lines.append(
                f"- {name} ({c.reward:.2f}): {prompt} **{completion}**" if completion else f"- {name}: {prompt}"
            )
        lines.append("")
    return "\n".join(lines)
