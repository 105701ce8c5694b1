"""Fit "dialogue-reward", the embedded reward model of chats, to rated chats between people, and write it with its card.

    python -m scripts.models.dialogue_reward chitchat_dataset-0.9.0-py3-none-any.whl

`scripts/datasets/chitchat.py` says where the file comes from, and which people are of which split. Two kinds of pairs
are fitted at once, by `fit_reward` (what `rlhf reward fit` calls): of two pieces of chats, with six turns each, the one
whose chat its people rated higher by two points; and a person's turn against something else, see `dialogue_pairs`.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf_envs.datasets.messages import opening
from rlhf_envs.files import replace_folder
from rlhf_envs.models import load_causal_lm, load_tokenizer
from rlhf_envs.models.export import save_float16
from rlhf_envs.preferences import evaluate_pairs
from rlhf_envs.preferences.fitting import fit_reward
from rlhf_envs.rewards.reward_model import load_classifier
from scripts.datasets.chitchat import Chat, chats_of_splits, read_chats
from scripts.models.dialogue_pairs import KINDS, MAX_WORDS, Turn, as_chat, make_pairs, turns_of

TARGET = Path(__file__).resolve().parents[2] / "rlhf_envs/models/dialogue-reward"
SIZE, BLOCKS, POSITIONS = 64, 3, 160
TURNS, OTHERS = 16_000, 1  # turns in pairs, and how much is set against each
RATED, GAP, PIECE = 3_000, 2.0, 6  # pairs of pieces, by how much their ratings differ, and turns of a piece

Row = dict[str, Any]


def turn_rows(turns: Sequence[Turn], rng: random.Random, kind: Any = None) -> list[Row]:
    """Return pairs of turns as rows of `fit_reward`."""
    return [
        {"prompt": as_chat(turn.before), "chosen": as_answer(turn.said), "rejected": as_answer(other)}
        for turn, other in make_pairs(turns, OTHERS, rng, kind)
        if other
    ]


def as_answer(text: str) -> list[dict[str, str]]:
    """Return a turn as the assistant's message."""
    return [{"role": "assistant", "content": text}]


def rated_rows(chats: Sequence[Chat], n: int, rng: random.Random) -> list[Row]:
    """Return n pairs of pieces of rated chats, where one chat was rated higher by `GAP`."""
    found: list[tuple[float, str]] = []
    for chat in (chat for chat in chats if chat.rating is not None):
        texts = [text.lower() for _, text in chat.turns]
        for start in range(0, len(texts) - PIECE + 1, PIECE):
            piece = texts[start : start + PIECE]
            if all(len(text.split()) <= MAX_WORDS for text in piece):
                found.append((float(chat.rating or 0), f"{opening(as_chat(piece[:-1]))} {piece[-1]}"))
    rows: list[Row] = []
    while len(rows) < n:
        (low, worse), (high, better) = sorted(rng.sample(found, 2))
        if high - low >= GAP:
            rows.append({"prompt": "", "chosen": better, "rejected": worse})
    return rows


def save_backbone(folder: Path) -> None:
    """Write a small decoder whose embeddings are the first principal components of those of "tiny"."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer("tiny")
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=SIZE, n_layer=BLOCKS, n_head=4, n_positions=POSITIONS, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        weights = load_causal_lm("tiny").get_input_embeddings().weight.float()
        left, values, _ = torch.linalg.svd(weights - weights.mean(0), full_matrices=False)
        parts = left[:, :SIZE] * values[:SIZE]
        model.transformer.wte.weight.copy_(parts / parts.std() * 0.05)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--epochs", type=int, default=1)
    args = parser.parse_args()

    def show(step: int, steps: int, loss: float) -> None:
        if step % 50 == 0:
            print(f"step {step}/{steps}  loss {loss:.3f}", flush=True)

    splits, rng, started = chats_of_splits(read_chats(args.wheel)), random.Random(0), time.process_time()
    turns, held_out = (turns_of(splits[split], rng) for split in ("train", "test"))
    turns, held_out = (rng.sample(found, min(len(found), n)) for found, n in ((turns, TURNS), (held_out, 600)))
    figures = {kind.__name__: turn_rows(held_out, rng, kind) for kind in KINDS}
    figures["rated higher"] = rated_rows(splits["test"], 1000, rng)
    rows = turn_rows(turns, rng) + rated_rows(splits["train"], RATED, rng)
    tests = [row for found in figures.values() for row in found[:300]]
    print(f"{len(rows):,} pairs, {len(tests):,} held out", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        save_backbone(Path(temporary, "backbone"))
        fit_reward(
            rows, Path(temporary, "fitted"), model=str(Path(temporary, "backbone")), held_out=tests, max_length=128,
            epochs=args.epochs, batch_size=64, learning_rate=2e-3,
            on_step=show,
        )  # fmt: skip
        model, tokenizer = load_classifier(str(Path(temporary, "fitted")))
        with replace_folder(TARGET) as folder:
            save_float16(model, tokenizer, folder)
    model, tokenizer = load_classifier(str(TARGET))
    print(f"{time.process_time() - started:.0f} CPU seconds, {model.num_parameters():,} parameters")
    for name, found in figures.items():
        accuracy, loss, n = evaluate_pairs(model, tokenizer, found)
        print(f"| {name} | {accuracy:.3f} | {loss:.3f} | {n} |")


if __name__ == "__main__":
    main()
