"""Write the card of a model that is saved outside of a run: what is known of it by itself."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCardData

from rlhf_envs.cards import CARD, MARK, write_card
from rlhf_envs.models import has_place

__all__ = ["hub_base", "write_plain_card"]


def hub_base(base: str | None) -> str | None:
    """Return a base model's name if it is a hub id, which the Hub links; None for embedded models and folders."""
    return base if base is not None and "/" in base and has_place(base) and not Path(base).exists() else None


def write_plain_card(folder: str | Path, base: str | None, has_pictures: bool, is_adapter: bool) -> None:
    """Write README.md into the folder of a saved model, unless one stands there that is not ours.

    Args:
        folder: the model's folder.
        base: the name of the model that training began with; None for a fresh one.
        has_pictures: whether it reads pictures.
        is_adapter: whether the folder holds adapters alone.
    """
    path = Path(folder) / CARD
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return
    data = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="image-text-to-text" if has_pictures else "text-generation",
        base_model=hub_base(base),
        tags=["reinforcement-learning", "rlhf", "rlhf-envs"],
    )
    what = "Adapters" if is_adapter else "A language model"
    name = "a fresh model" if base is None else f"`{Path(base).name if Path(base).is_absolute() else base}`"
    write_card(
        folder,
        f"---\n{data.to_yaml()}\n---\n{MARK}\n\n# {Path(folder).resolve().name}\n\n"
        f"{what} from {name}, saved by a policy of rlhf-envs. What it learned from and how well it does stands in the "
        f"card of a run (`rlhf train`), not here. The licence of {name} holds for it.\n",
    )
