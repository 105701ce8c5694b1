"""Lay texts out for masked-language modelling, and load, build and save the encoders that learn it.

Departures from BERT's pre-training (https://arxiv.org/abs/1810.04805): no next-sentence prediction, as in RoBERTa, and
masks are drawn anew whenever a text is read. What is masked, and what stands in its place (80% [MASK], 10% a random
token, 10% the token itself), is drawn by transformers' `DataCollatorForLanguageModeling`.

- A sequence is a whole text, not a part of a packed row: encoders are used on single texts. A longer one goes on in
  the next sequence.
- Every sequence has one masked token at least, or short ones would be read for nothing.
- The mask of the k-th sequence of a run depends on the seed and k alone. So a resumed run draws the same ones, and
  those of the held-out texts are the same before and after, and in all runs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
)

from rlhf_envs.models import clear_errors, load_config, no_progress_bars, resolve
from rlhf_envs.models.adapters import is_adapter_folder
from rlhf_envs.models.kinds import is_encoder
from rlhf_envs.preferences.training import quiet_transformers
from rlhf_envs.tokens import added_tokens, encode_texts, keep_start

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Encoder", "MaskedTexts", "RandomMasks", "build_encoder", "load_encoder", "pad_masked", "save_encoder"]

logger = logging.getLogger(__name__)


class Encoder(NamedTuple):
    """Hold a network with a masked-LM head, and the weights of its checkpoint that have no place in it."""

    network: PreTrainedModel
    others: dict[str, torch.Tensor]  # such as a pooler's, which reward models read


def load_encoder(name: str) -> Encoder:
    """Load an encoder with its masked-LM head, in float32; a head that it lacks starts at random weights.

    Args:
        name: see `rlhf_envs.models.resolve`.

    Raises:
        ValueError: the model is no encoder, is fitted to a task already, or cannot be loaded.
    """
    folder = resolve(name)
    if is_adapter_folder(folder):
        raise ValueError(f"{name!r} has adapters alone, and the whole encoder learns: merge them into their base first")
    kind = (load_config(name).architectures or [load_config(name).model_type])[0]
    if not is_encoder(load_config(name)):
        raise ValueError(
            f"the model {name!r} ({kind}) is no encoder, so it has no masked-LM objective: leave the objective out, or "
            "choose clm; encoders are minilm and what BertForMaskedLM and its like are"
        )
    if any(head in kind for head in ("Classification", "QuestionAnswering", "MultipleChoice")):
        raise ValueError(
            f"the model {name!r} is a {kind}, whose head pre-training would drop: go on from the encoder that it was "
            "fitted from, and fit it again"
        )
    with no_progress_bars(), quiet_transformers(), clear_errors(name, "weights"):
        network, loading = AutoModelForMaskedLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    prefix = f"{network.base_model_prefix}."
    if missing := sorted(key for key in loading["missing_keys"] if key.startswith(prefix)):
        raise ValueError(f"the weights of the model {name!r} lack {', '.join(missing)}: take a whole folder")
    if loading["missing_keys"]:
        logger.warning("%r has no masked-LM head, or a part of one: a new one starts at random weights", name)
    return Encoder(network.eval(), _others(name, network) if loading["unexpected_keys"] else {})


def _others(name: str, network: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint's encoder that its masked-LM model lacks."""
    with no_progress_bars(), quiet_transformers(), clear_errors(name, "weights"):
        whole, loading = AutoModel.from_pretrained(
            resolve(name), dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    prefix, known = f"{network.base_model_prefix}.", network.state_dict()
    lacking = {key: value for key, value in whole.state_dict().items() if prefix + key not in known}
    return {prefix + key: value for key, value in lacking.items() if key not in loading["missing_keys"]}


def build_encoder(vocab_size: int, n_positions: int, n_layer: int, n_embd: int, n_head: int) -> Encoder:
    """Build a BERT-shaped encoder without dropout; pad is token 0, as in `train_tokenizer`."""
    config: Any = BertConfig(
        vocab_size=vocab_size,
        hidden_size=n_embd,
        num_hidden_layers=n_layer,
        num_attention_heads=n_head,
        intermediate_size=4 * n_embd,
        max_position_embeddings=n_positions,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
    )
    return Encoder(BertForMaskedLM(config), {})


def save_encoder(encoder: Encoder, output: str | Path) -> None:
    """Save an encoder with its head and with the weights that have no place in it, as a Hugging Face folder."""
    with no_progress_bars():
        encoder.network.save_pretrained(output, state_dict={**encoder.network.state_dict(), **encoder.others})


class MaskedTexts(Dataset[dict[str, torch.Tensor]]):
    """Hold sequences of at most `block_size` token ids: a text each, with the tokenizer's special tokens around it.

    Attributes:
        rows: the ids of each sequence, (length,) int32.
        maskable: which of these may be masked, (length,) bool: all but special tokens.
        lengths: tokens of text in each sequence, (sequences,) int64.
        n_left: tokens of texts with special tokens alone, from which nothing can be learned.
    """

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, block_size: int) -> None:
        if tokenizer.mask_token_id is None or tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer has no mask or no pad token: set tokenizer.mask_token and .pad_token")
        before, after = added_tokens(tokenizer, "a")
        room = block_size - len(before) - len(after)
        if room < 1:
            raise ValueError(f"block_size={block_size} has no room beside {len(before) + len(after)} special tokens")
        self.tokenizer, special = tokenizer, torch.tensor(tokenizer.all_special_ids)
        self.rows: list[torch.Tensor] = []
        self.maskable: list[torch.Tensor] = []
        lengths, self.n_left, n_long = [], 0, 0
        for ids in encode_texts(tokenizer, texts, opened=False):
            n_long += len(ids) > room
            while ids:
                part = keep_start(tokenizer, ids[: 2 * room], room)
                ids = ids[len(part) :]
                row = torch.tensor([*before, *part, *after], dtype=torch.int32)  # (length,)
                maskable = ~torch.isin(row, special)
                if not maskable.any():
                    self.n_left += len(part)
                    continue
                self.rows.append(row)
                self.maskable.append(maskable)
                lengths.append(len(part))
        if n_long:
            logger.info("%d of %d texts are longer than a sequence of %d tokens", n_long, len(texts), block_size)
        self.lengths = torch.tensor(lengths, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index].long(), "maskable": self.maskable[index]}


class RandomMasks(Dataset[dict[str, torch.Tensor]]):
    """Hold sequences in an order, with 15% of their tokens masked at random, at least one in each.

    An item has `input_ids` and `labels`, (length,) int64 each; labels are -100 but where a token is to be predicted.
    """

    def __init__(self, data: MaskedTexts, order: Sequence[int], seed: int) -> None:
        self.data, self.order, self.seed = data, order, seed
        self.mask = DataCollatorForLanguageModeling(data.tokenizer)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.data[self.order[index]]
        drawn = int(np.random.SeedSequence([self.seed, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        self.mask.generator = torch.Generator().manual_seed(drawn)
        while True:
            ids, labels = self.mask.torch_mask_tokens(row["input_ids"][None].clone(), ~row["maskable"][None])
            if (labels >= 0).any():
                return {"input_ids": ids[0], "labels": labels[0]}


def pad_masked(tokenizer: PreTrainedTokenizerBase) -> DataCollatorForTokenClassification:
    """Return what makes a batch of sequences: ids are padded by the tokenizer, labels by -100."""
    return DataCollatorForTokenClassification(tokenizer)
