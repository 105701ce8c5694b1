"""Checkpoints of `rlhf pretrain` and `rlhf sft` hold pickles. A forged one makes nothing and runs nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.training.pretrain import pretrain

SMALL: dict[str, Any] = dict(vocab_size=300, n_layer=1, n_embd=16, n_head=2, block_size=32, batch_size=4, save_freq=1)


class Forged:
    """Write a file when it is unpickled, as anything could be done then."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("corpus") / "cats.txt"
    path.write_text("\n\n".join(f"The cat number {i} sat. It was a good day for cat {i}!" for i in range(12)))
    return str(path)


@pytest.fixture(scope="module")
def stopped(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped") / "model"
    pretrain(corpus, folder, steps=1, **SMALL)
    return folder


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"])
def test_a_pickle_of_more_than_tensors_is_refused(name: str, corpus: str, stopped: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(stopped, tmp_path / "model")) / "checkpoint-1"
    if name == "pytorch_model.bin":  # which is read where there are no safetensors
        (checkpoint / "model.safetensors").unlink()
    marker = tmp_path / "ran"
    torch.save({"state": Forged(marker)}, checkpoint / name)
    with pytest.raises(ValueError, match=r"checkpoint-1 is not gone on from: a file there holds more than tensors"):
        pretrain(corpus, tmp_path / "model", steps=2, resume=True, **SMALL)
    assert not marker.exists()
    torch.load(checkpoint / name, weights_only=False)
    assert marker.exists(), "it is a pickle that runs when it is read in full"


def test_the_pickled_arguments_are_never_read(corpus: str, stopped: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(stopped, tmp_path / "model")) / "checkpoint-1"
    assert (checkpoint / "training_args.bin").is_file()
    marker = tmp_path / "ran"
    torch.save(Forged(marker), checkpoint / "training_args.bin")
    pretrain(corpus, tmp_path / "model", steps=2, resume=True, **SMALL)
    assert not marker.exists()


def test_every_pickle_of_a_checkpoint_is_among_these(stopped: Path) -> None:
    pickles = {path.name for path in (stopped / "checkpoint-1").iterdir() if path.suffix in (".pt", ".pth", ".bin")}
    assert pickles == {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"}
