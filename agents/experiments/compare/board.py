"""What TensorBoard shows of a comparison beside its runs: charts that hold all runs, and the report."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["LAYOUT_RUN", "layout", "write_board"]

LAYOUT_RUN = "_report"  # a run of its own: TensorBoard adds up the layouts of all runs
CHARTS = ("reward", "kl", "length", "eos_share", "distinct_bigrams", "perplexity")
TRAINING = ("reward", "kl", "entropy", "tokens_per_second")


def layout(judges: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """The page of custom scalars: a chart a figure, with the curves of all runs."""
    held_out = (*judges, *(name for name in CHARTS if name not in judges))
    return {
        "Held-out prompts": {name: ["Multiline", [f"^held_out/{name}$"]] for name in held_out},
        "Training rollouts": {name: ["Multiline", [f"^rlhf/{name}$"]] for name in TRAINING},
    }


def write_board(
    folder: Path, judges: Sequence[str], markdown: str | None = None, plots: Mapping[str, Any] | None = None
) -> None:
    """Write the layout, and once there is one the report with its plots, in place of what there was.

    Args:
        folder: of the comparison.
        judges: of the task.
        markdown: the report.
        plots: figures of matplotlib by name.
    """
    import numpy as np
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    from .plots import to_png

    shutil.rmtree(folder / LAYOUT_RUN, ignore_errors=True)
    writer = SummaryWriter(str(folder / LAYOUT_RUN))
    try:
        writer.add_custom_scalars(layout(judges))
        if markdown is not None:
            lines = markdown.splitlines()  # its pictures stand on a page of their own
            writer.add_text("report", "\n".join(line for line in lines if not line.startswith("![")))
        for name, figure in (plots or {}).items():
            import io

            picture = Image.open(io.BytesIO(to_png(figure))).convert("RGB")
            writer.add_image(f"report/{name}", np.asarray(picture), dataformats="HWC")
    finally:
        writer.close()
