"""Weights & Biases beside TensorBoard: W&B's own callback for Stable-Baselines3, and TensorBoard's figures.

W&B's files go where it puts them, `./wandb` or WANDB_DIR: below a run's folder TensorBoard would find it twice.
Without a network WANDB_MODE=offline writes them only, and `wandb sync` sends them later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .config import TrainConfig

__all__ = ["check_wandb", "finish_wandb", "start_wandb"]


def check_wandb() -> None:
    """Check that W&B is there, before anything is built.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        raise ImportError(f"--wandb needs W&B ({error}): pip install 'rlhf-envs[wandb]'") from error


def start_wandb(config: TrainConfig, folder: Path) -> Any:
    """Start W&B's run for a run's folder, and give the callback that adds the agent's arguments to it.

    The run has the folder's name, the whole configuration and what TensorBoard gets, under the same tags. A run that is
    resumed goes on under the same id.

    Raises:
        OSError: W&B cannot start, without a key or a network for example.
    """
    import wandb
    from wandb.integration.sb3 import WandbCallback

    try:
        run = wandb.init(
            project=config.wandb,
            name=f"{config.algo}/{folder.name}",
            group=config.env_id,
            job_type="train",
            tags=[config.algo, config.env_id],
            config=config.model_dump(mode="json"),
            id=_run_id(folder),
            resume="allow",
            sync_tensorboard=True,
        )
    except (wandb.Error, ValueError) as error:
        raise OSError(f"--wandb {config.wandb}: {error}; without a network set WANDB_MODE=offline") from error
    (folder / "wandb_id").write_text(run.id, encoding="utf-8")
    return WandbCallback()


def finish_wandb() -> None:
    """End W&B's run: everything that TensorBoard got is written."""
    import wandb
    from wandb.integration.tensorboard import unpatch

    wandb.finish(quiet=True)
    unpatch()


def _run_id(folder: Path) -> str | None:
    file = folder / "wandb_id"
    return file.read_text(encoding="utf-8") if file.is_file() else None
