"""Run the command `rlhf export`: write a trained model for other programs, and show what that costs."""

from __future__ import annotations

from rich.console import Console

from ..serving import export as exporting
from ..training.data_flags import DataFlags
from ..training.fields import Pairs, option
from .options import Flags, argument
from .tables import make_table

__all__ = ["ExportConfig", "export"]


class ExportConfig(DataFlags, Flags):
    """Hold the flags of `rlhf export`."""

    own_environment = None  # the run's own

    source: str = argument("Run folder, bundle, model name or folder, hub id, or SB3 zip.")
    folder: str = argument("Folder to write.")
    to: str = option("merged", "hf (adapters alone if there are some), merged, gguf or onnx.")
    quantize: str | None = option(None, "float16, int8 or int4 weights. float32 by default.")
    prune: float | None = option(None, "Share of each linear layer's weights to set to 0, the smallest ones.")
    prune_pattern: str | None = option(None, "Instead of it, such as 2:4: of every 4 neighbours the 2 largest stay.")
    env: str | None = option(None, "Environment that asks and scores. The run's own, or rlhf/Sentiment-v0.")
    n_episodes: int = option(64, "Held-out prompts.", "-n", "--n-episodes", ge=2)
    split: str = option("validation", "Split of the task's data.")
    env_kwargs: Pairs = option({}, "Arguments of the environment; repeat the flag.")
    seed: int = option(0, "Seeds the sampling.", ge=0)
    force: bool = option(False, "Replace an earlier export in the folder.")
    trust: bool = option(False, "Load an SB3 zip: it holds pickles, which can run code.")


def export(config: ExportConfig) -> None:
    """Write a trained model for other programs: plain weights, adapters, GGUF or ONNX, in 8 or 4 bits, or pruned.

    The files are read back, and size, perplexity, reward and judges before and after are shown, on the same held-out
    prompts. The folder gets the weights, the tokenizer, a model card and SHA256SUMS, whole or not at all. No file is a
    pickle.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    done = exporting.export(
        config.source,
        config.folder,
        config.to,
        prune_share=config.prune,
        env_id=config.env,
        **config.model_dump(
            include={"quantize", "prune_pattern", "n_episodes", "split", "env_kwargs", "seed", "force", "trust"}
        ),
    )
    console = Console()
    console.print(make_table(["", "before", "after", "change"], done.rows, title=done.counted))
    for note in done.notes:
        console.print(f"- {note}", markup=False, soft_wrap=True)
    console.print(f"written to {done.folder}", markup=False, soft_wrap=True)
