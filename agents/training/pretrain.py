"""Pre-train a language model on plain texts: a causal one, or an encoder by masked-language modelling.

The loop is in `transformers.Trainer`. `agents.training.texts` reads the texts and lays them out for a causal model,
`agents.training.masked` for an encoder. This module puts them together and counts what is learned, held out and left.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch.utils.data import Subset
from transformers import AutoTokenizer

from rlhf_envs.files import replace_json
from rlhf_envs.models import load_causal_lm, load_config, load_tokenizer, model_positions, no_progress_bars
from rlhf_envs.models.kinds import is_encoder
from rlhf_envs.rewards.reward_model import model_length

from ..core.models import build_model
from ..saving.provenance import MADE, provenance
from .masked import Encoder, MaskedTexts, RandomMasks, build_encoder, load_encoder, pad_masked, save_encoder
from .texts import PackedTexts, Texts, read_texts, split_passages, train_tokenizer
from .trainer import Collate, Rows, alone, find_checkpoint, make_trainer, mean_loss, run_trainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Objective", "PackedTexts", "pretrain", "read_texts", "split_passages", "train_tokenizer"]

Objective = Literal["clm", "mlm"]
FRESH_RATE, FURTHER_RATE = 2e-3, 1e-4  # highest learning rates of a fresh model, and of one that is gone on from
HELD_OUT_SEED = 0  # of the masks of held-out texts, the same for all seeds
logger = logging.getLogger(__name__)


class _Start(NamedTuple):
    """Hold what a run starts from; `encoder` has the network too, if that is one."""

    tokenizer: PreTrainedTokenizerBase
    network: PreTrainedModel
    encoder: Encoder | None


class _Laid(NamedTuple):
    """Hold the rows of a run in the order in which they are read, the held-out rows, and the tokens of both."""

    rows: Rows
    held_out: Rows
    collate: Collate | None
    tokens: dict[str, Any]


@alone
def pretrain(
    source: str,
    output: str | Path,
    *,
    model: str | None = None,
    objective: Objective | None = None,
    columns: Mapping[str, str] | None = None,
    vocab_size: int = 3072,
    n_layer: int = 3,
    n_embd: int = 256,
    n_head: int = 4,
    block_size: int = 256,
    steps: int = 1000,
    batch_size: int = 16,
    learning_rate: float | None = None,
    save_freq: int = 200,
    seed: int = 0,
    bf16: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Pre-train a language model on plain text, and save it with its tokenizer as a Hugging Face folder.

    A causal model learns to predict the next token; the folder is a model to train agents from. An encoder learns to
    predict masked tokens (15%, see `agents.training.masked`); the folder is a model to fit reward models on.

    Args:
        source: a named corpus, a text file, a folder of text files or a file of rows (see `read_texts`).
        output: the folder to write; TensorBoard events and checkpoints go below it.
        model: a causal model or an encoder to go on from, by a name that `rlhf_envs.models.resolve` knows. Its
            tokenizer is kept. By default a fresh model of GPT-2's or BERT's shape, `n_layer` blocks of width `n_embd`,
            with a BPE tokenizer of `vocab_size` tokens.
        objective: "clm" for causal models, "mlm" for encoders. By default what the model is; "clm" for a fresh one.
        columns: new names of columns of rows, such as `{"text": "body"}`.
        block_size: tokens per row; also the positions of a fresh model.
        steps: optimiser steps in all. The learning rate falls along a cosine to zero at the last step.
        learning_rate: its highest value; by default 2e-3 for a fresh model, 1e-4 to go on from one.
        save_freq: steps between checkpoints and validations.
        resume: go on from the last checkpoint below `output`; start over if there is none yet.

    Returns:
        `loss` (nats per predicted token of the held-out texts) and `perplexity`, the same before the first step
        (`loss_before`, `perplexity_before`), and `tokens`: `total` = `learned` + `held_out` + the sum of `left`, which
        has the reasons. They count the tokens of the texts, and in causal models an EOS after each passage. All is also
        in `pretrain.json`.

    Raises:
        FileExistsError: `output` holds a run and `resume` is False.
        FileNotFoundError: `resume` is True and `output` holds no run.
        ValueError: another process is at work in `output`, or the model does not fit the objective.
    """
    checkpoint = find_checkpoint(Path(output), resume)
    texts = read_texts(source, columns)
    torch.manual_seed(seed)
    if model is None:
        shape = {"n_layer": n_layer, "n_embd": n_embd, "n_head": n_head}
        start = _fresh(texts, output, checkpoint, objective == "mlm", vocab_size, block_size, shape)
    else:
        start = _load(model, objective, block_size)
    _check_kind(checkpoint, start.network)
    start.tokenizer.save_pretrained(output)
    laid = _lay_out(texts, start, block_size, steps * batch_size, batch_size, seed)
    rate = learning_rate or (FRESH_RATE if model is None else FURTHER_RATE)
    options = {"learning_rate": rate, "save_freq": save_freq, "seed": seed, "bf16": bf16}
    before, loss = _train(start, laid, output, checkpoint, steps=steps, batch_size=batch_size, **options)
    _save(start, output)
    metrics: dict[str, Any] = {"loss": loss, "perplexity": math.exp(loss)}
    metrics |= {"loss_before": before, "perplexity_before": math.exp(before), "tokens": laid.tokens}
    settings = {"source": source, "model": model, "objective": "clm" if start.encoder is None else "mlm"}
    sizes = {"block_size": block_size, "steps": steps, "batch_size": batch_size, "learning_rate": rate, "seed": seed}
    replace_json(Path(output) / "pretrain.json", {**settings, **sizes, **metrics, MADE: provenance()})
    return metrics


def _train(
    start: _Start,
    laid: _Laid,
    output: str | Path,
    checkpoint: str | None,
    *,
    steps: int,
    batch_size: int,
    **options: Any,
) -> tuple[float, float]:
    """Learn the rows. Return the loss of the held-out texts before and after."""
    measure = laid.held_out, batch_size, laid.collate, start.encoder is not None
    before = mean_loss(start.network, *measure)
    logger.info("held-out perplexity %.1f before the first step", math.exp(before))
    options |= {"steps": steps, "warmup_steps": min(200, steps // 10), "batch_size": batch_size}
    options |= {"collate": laid.collate, "train_sampling_strategy": "sequential"}
    run_trainer(make_trainer(start.network, laid.rows, laid.held_out, output, **options), checkpoint)
    return before, mean_loss(start.network, *measure)


def _fresh(
    texts: Texts,
    output: str | Path,
    checkpoint: str | None,
    masked: bool,
    vocab_size: int,
    block_size: int,
    shape: Mapping[str, int],
) -> _Start:
    """Return a fresh model and its tokenizer, which is that in `output` where a run is resumed."""
    if checkpoint is not None:
        tokenizer = AutoTokenizer.from_pretrained(output, trust_remote_code=False)
    else:
        tokenizer = train_tokenizer(texts.train, vocab_size, block_size, masked)
    if masked:
        encoder = build_encoder(len(tokenizer), block_size, **shape)
        return _Start(tokenizer, encoder.network, encoder)
    return _Start(tokenizer, build_model(len(tokenizer), block_size, **shape), None)


def _load(model: str, objective: Objective | None, block_size: int) -> _Start:
    """Return the model to go on from, and its tokenizer.

    Raises:
        ValueError: the objective is not the model's, or its positions are too few.
    """
    config = load_config(model)
    if objective == "clm" and is_encoder(config):
        kind = (config.architectures or [config.model_type])[0]
        raise ValueError(
            f"the model {model!r} is an encoder ({kind}), which reads in both directions, so it cannot learn clm: "
            "leave the objective out, or choose mlm"
        )
    if objective == "mlm" or is_encoder(config):
        encoder = load_encoder(model)
        positions, start = model_length(encoder.network), _Start(load_tokenizer(model), encoder.network, encoder)
    else:
        positions, start = model_positions(model), _Start(load_tokenizer(model), load_causal_lm(model), None)
    if positions is not None and block_size > positions:
        raise ValueError(f"block_size={block_size} is more than the {positions} positions of {model!r}")
    return start


def _check_kind(checkpoint: str | None, network: PreTrainedModel) -> None:
    """Raise ValueError if a checkpoint to resume from is of another kind of model."""
    if checkpoint is None:
        return
    kinds = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8")).get("architectures")
    if kinds != [type(network).__name__]:
        raise ValueError(
            f"{checkpoint} is a {', '.join(kinds or ['model without a name'])}, and this run trains a "
            f"{type(network).__name__}: resume with the model and the objective of the run"
        )


def _lay_out(texts: Texts, start: _Start, block_size: int, n_rows: int, batch_size: int, seed: int) -> _Laid:
    """Lay texts out in rows, draw the `n_rows` rows that are read, and count all tokens."""
    masked, tokenizer = start.encoder is not None, start.tokenizer
    kind = MaskedTexts if masked else PackedTexts
    data, held_out = (kind(part, tokenizer, block_size) for part in (texts.train, texts.validation))
    if not len(data) or not len(held_out):
        raise ValueError("the texts have nothing but special tokens to learn or to hold out: give other texts")
    order = _draw_rows(data.lengths, n_rows, batch_size, seed, masked)
    reached = torch.zeros(len(data), dtype=torch.bool).index_fill(0, torch.tensor(order), True)  # (rows,)
    left = Counter({"in rows that the steps do not reach": int(data.lengths[~reached].sum())})
    for why, part in texts.left.items():
        rest = kind(part, tokenizer, block_size)
        left[why] += int(rest.lengths.sum()) + rest.n_left
    left["special tokens alone"] += data.n_left + held_out.n_left
    counts = {"learned": int(data.lengths[reached].sum()), "held_out": int(held_out.lengths.sum())}
    total = sum(counts.values()) + left.total()
    tokens = {"total": total, **counts, "left": {why: n for why, n in left.items() if n}}
    logger.info("%d rows of up to %d tokens (%.1fM tokens)", len(data), block_size, int(data.lengths.sum()) / 1e6)
    if isinstance(data, PackedTexts) or isinstance(held_out, PackedTexts):
        return _Laid(Subset(data, order), held_out, None, tokens)
    fixed = RandomMasks(held_out, held_out.lengths.argsort(stable=True).tolist(), HELD_OUT_SEED)
    return _Laid(RandomMasks(data, order, seed + 1), fixed, pad_masked(tokenizer), tokens)


def _draw_rows(lengths: torch.Tensor, n: int, batch_size: int, seed: int, by_length: bool) -> list[int]:
    """Return n rows in the order in which they are read: all once before any twice, in an order of its own per pass.

    With `by_length`, the rows of a batch are about equally long.
    """
    from transformers.trainer_pt_utils import get_length_grouped_indices

    generator, order = torch.Generator().manual_seed(seed), list[int]()
    while len(order) < n:
        if by_length:
            order += get_length_grouped_indices(lengths.tolist(), batch_size, generator=generator)
        else:
            order += torch.randperm(len(lengths), generator=generator).tolist()
    return order[:n]


def _save(start: _Start, output: str | Path) -> None:
    """Save the network, an encoder with the weights that masked-LM has no place for."""
    if start.encoder is not None:
        save_encoder(start.encoder, output)
        return
    with no_progress_bars():
        start.network.save_pretrained(output)
