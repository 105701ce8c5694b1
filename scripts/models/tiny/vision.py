"""Train "tiny-vision" on the pictures of easy-vqa: a few minutes on two cores.

    python -m scripts.datasets.easy_vqa easy_vqa-1.0-py3-none-any.whl --all all.jsonl.gz
    python -m scripts.models.tiny.vision --data all.jsonl.gz

1. The encoder learns to tell shapes and colours, and of each of its patches which pixels the shape covers and which
   shape it is the border of. The linear heads for this are thrown away.
2. Encoder, projector and the decoder's last two blocks learn to write a caption after the picture, such as " a red
   circle". Questions are left to `rlhf sft rlhf/ImageQA-v0`.

What was learned goes to rlhf_envs/models/tiny-vision/trained.safetensors, float16, and of the decoder's matrices the
change at rank 32 (`--output` names another file). Training pictures alone are learned; the accuracy printed is that of
the validation pictures. With `--check` nothing is trained: the accuracy of the file's model is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rlhf_envs.datasets import load_rows
from rlhf_envs.models.tiny_vision import TRAINED, build_tiny_vision, learns, save_trained
from rlhf_envs.models.vision import load_processor
from rlhf_envs.pictures import Pictures
from rlhf_envs.tasks.images.questions import COLORS, SHAPES
from rlhf_envs.tokens import encode_after


class Views:
    """Hold the pictures of a split: pixels `(n, 3, height, width)`, and numbers of shapes and colours `(n,)`."""

    def __init__(self, data: str, split: str) -> None:
        rows = [*{row["picture"]: row for row in load_rows(data, split)}.values()]
        pictures = Pictures("tiny-vision", rows, "easy-vqa")
        self.pixels = torch.from_numpy(np.concatenate([pictures[i] for i in range(len(rows))]))
        self.shapes = torch.tensor([SHAPES.index(row["shape"]) for row in rows])
        self.colors = torch.tensor([COLORS.index(row["color"]) for row in rows])

    def batches(self, steps: int, size: int, rng: np.random.Generator) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
        """Yield pixels and the numbers of their pictures; half of the pictures are mirrored."""
        for _ in range(steps):
            chosen = rng.integers(len(self.pixels), size=size)
            pixels = self.pixels[chosen]
            mirrored = torch.from_numpy(rng.random(size) < 0.5)[:, None, None, None]
            yield torch.where(mirrored, pixels.flip(-1), pixels), chosen


def optimiser(module: nn.Module, rate: float, steps: int) -> Callable[[torch.Tensor], None]:
    """Return a step of AdamW down a loss, with gradients of norm 1 at most; a short warm-up, then a cosine to zero."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, rate, total_steps=steps, pct_start=0.1)

    def descend(loss: torch.Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        adam.step()
        schedule.step()

    return descend


def covered(pixels: torch.Tensor, patch: int) -> torch.Tensor:
    """Return which pixels of each patch the shape covers, `(n, patches, pixels)`: those unlike the corner's."""
    mask = ((pixels - pixels[:, :, :1, :1]).abs().amax(dim=1) > 0.25).float()
    return mask.unfold(1, patch, patch).unfold(2, patch, patch).flatten(1, 2).flatten(2)


class Teacher(nn.Module):
    """Read shapes, colours and what is covered off the states of an encoder's patches, with linear heads."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower, self.patch = tower, tower.config.patch_size
        self.heads = nn.Linear(tower.config.hidden_size, len(SHAPES) + len(COLORS))
        self.mask = nn.Linear(tower.config.hidden_size, self.patch**2)

    def scores(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the scores of shapes and colours by patch, and the patches' states."""
        states = self.tower(pixels).last_hidden_state[:, 1:]
        shapes, colors = self.heads(states).split([len(SHAPES), len(COLORS)], dim=2)
        return shapes, colors, states

    def loss(self, pixels: torch.Tensor, shape: torch.Tensor, color: torch.Tensor) -> torch.Tensor:
        """Return the sum of the four losses."""
        shapes, colors, states = self.scores(pixels)
        cover = covered(pixels, self.patch)
        border = ((cover.mean(dim=2) > 0.03) & (cover.mean(dim=2) < 0.97)).flatten()
        wanted = shape[:, None].expand(shapes.shape[:2]).flatten()
        return (
            nn.functional.cross_entropy(shapes.mean(dim=1), shape)
            + nn.functional.cross_entropy(colors.mean(dim=1), color)
            + nn.functional.cross_entropy(shapes.flatten(0, 1)[border], wanted[border])
            + 3 * nn.functional.binary_cross_entropy_with_logits(self.mask(states), cover)
        )


def teach_encoder(model: Any, train: Views, held_out: Views, steps: int, rng: np.random.Generator) -> None:
    """Let the encoder tell shapes and colours."""
    teacher = Teacher(model.model.vision_tower)
    descend = optimiser(teacher, 2e-3, steps)
    for step, (pixels, chosen) in enumerate(train.batches(steps, 64, rng)):
        loss = teacher.loss(pixels, train.shapes[chosen], train.colors[chosen])
        descend(loss)
        if step % 50 == 49:
            with torch.no_grad():
                shapes, colors, _ = teacher.scores(held_out.pixels)
            right = [shapes.mean(1).argmax(1) == held_out.shapes, colors.mean(1).argmax(1) == held_out.colors]
            told = ", ".join(f"{x.float().mean():.3f}" for x in right)
            print(f"encoder, step {step + 1}: loss {loss.item():.3f}; held-out shapes, colours {told}", flush=True)


def captions(views: Views, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and labels `(n, length)`: the picture's tokens and its caption, such as " a red circle", with EOS."""
    tokenizer = load_processor("tiny-vision").tokenizer
    mark = [model.config.image_token_id] * model.config.image_seq_length
    texts = [f" a {COLORS[c]} {SHAPES[s]}" for s, c in zip(views.shapes, views.colors, strict=True)]
    told = [[*encode_after(tokenizer, text), tokenizer.eos_token_id] for text in texts]
    length = max(map(len, told))
    ids = torch.tensor([[*mark, *one, *[tokenizer.pad_token_id] * (length - len(one))] for one in told])
    labels = torch.tensor([[*[-100] * len(mark), *one, *[-100] * (length - len(one))] for one in told])
    return ids, labels


@torch.no_grad()
def share_right(model: Any, views: Views) -> float:
    """Return the share of pictures whose caption, all of its tokens, the model finds likeliest."""
    ids, labels = captions(views, model)
    found = model(input_ids=ids, pixel_values=views.pixels, use_cache=False).logits.argmax(-1)
    there = labels[:, 1:] != -100
    return ((found[:, :-1] == labels[:, 1:]) | ~there).all(dim=1).float().mean().item()


def teach_captions(model: Any, train: Views, held_out: Views, steps: int, rng: np.random.Generator) -> None:
    """Let the model describe pictures. The decoder's first blocks, its embeddings and its head stay those of "tiny"."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(learns(name))
    ids, labels = captions(train, model)
    descend = optimiser(model, 5e-4, steps)
    for step, (pixels, chosen) in enumerate(train.batches(steps, 32, rng)):
        loss = model(input_ids=ids[chosen], pixel_values=pixels, labels=labels[chosen], use_cache=False).loss
        descend(loss)
        if step % 50 == 49:
            right = share_right(model, held_out)
            print(f"captions, step {step + 1}: loss {loss.item():.3f}; held-out captions right {right:.3f}", flush=True)


def check(file: Path, data: str) -> None:
    """Print a file's size, and the share of captions that its model has right on held-out pictures."""
    model, splits = build_tiny_vision(file), ("validation", "test")
    right = ", ".join(f"{share_right(model, Views(data, split)):.3f} of {split}" for split in splits)
    print(f"{file}: {file.stat().st_size / 1e6:.2f} MB; captions right: {right}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="easy_vqa", help="a file of scripts/datasets/easy_vqa.py; else the sample")
    parser.add_argument("--output", type=Path, default=TRAINED)
    parser.add_argument("--encoder-steps", type=int, default=600)
    parser.add_argument("--caption-steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="print the accuracy of the file --output, and stop")
    flags = parser.parse_args()
    if flags.check:
        check(flags.output, flags.data)
        return
    torch.manual_seed(flags.seed)
    rng = np.random.default_rng(flags.seed)
    train, held_out = (Views(flags.data, split) for split in ("train", "validation"))
    print(f"{len(train.pixels):,} pictures, {len(held_out.pixels):,} held out")
    model = build_tiny_vision(seed=flags.seed)
    teach_encoder(model, train, held_out, flags.encoder_steps, rng)
    teach_captions(model, train, held_out, flags.caption_steps, rng)
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    save_trained(model, flags.output)
    check(flags.output, flags.data)


if __name__ == "__main__":
    main()
