"""Give every contender the same model, prompts, reward and sizes.

Completions have a fixed length: no contender ends at EOS. None masks a logit for that, which would cost time. Instead
the tokenizers name another token, or none, as EOS.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_envs.datasets import load_rows
from rlhf_envs.models import load_causal_lm, load_tokenizer
from rlhf_envs.rewards import get_reward
from rlhf_envs.tasks.base import Task

if TYPE_CHECKING:
    import torch

__all__ = ["FixedLength", "FreshLlama", "FreshModel", "Work"]

LEARNING_RATE, ADAM_EPS, KL_COEF, MAX_GRAD_NORM = 1e-5, 1e-5, 0.05, 1.0
N_PROMPTS = 256


@dataclass(frozen=True)
class FreshModel:
    """Describe a GPT-2-shaped model of any size, with random weights and a tokenizer of one token per word."""

    vocab_size: int = 2048
    n_layer: int = 3
    n_embd: int = 256
    n_head: int = 4

    def config(self, length: int) -> Any:
        """Return the configuration of the model, for contexts of `length` tokens."""
        from transformers import GPT2Config

        return GPT2Config(**vars(self), n_positions=length, bos_token_id=None, eos_token_id=1)


@dataclass(frozen=True)
class FreshLlama(FreshModel):
    """Describe a Llama-shaped model of any size: grouped queries, a gated MLP, tied embeddings.

    Args:
        std: standard deviation of the weights. With the usual 0.02 all tokens are about equally probable.
    """

    n_kv_head: int = 2
    n_inner: int = 1024
    std: float = 0.02

    def config(self, length: int) -> Any:
        """Return the configuration of the model, for contexts of `length` tokens."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocab_size,
            num_hidden_layers=self.n_layer,
            hidden_size=self.n_embd,
            num_attention_heads=self.n_head,
            num_key_value_heads=self.n_kv_head,
            intermediate_size=self.n_inner,
            max_position_embeddings=length,
            initializer_range=self.std,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )


@dataclass(frozen=True)
class Work:
    """Describe an iteration: `n_envs` completions of exactly `new_tokens` tokens, `epochs` x `minibatches` updates.

    Args:
        model: a name that `rlhf_envs.models` knows, or a fresh model.
        train: what learns, as in `TokenPolicy`.
        reward: "rule", which costs next to nothing, or a registered reward.
        policy_kwargs: further arguments of `TokenPolicy`, for our own contenders.
        ragged: episodes end early, at random (only the rollout of `ours` and of `waiting`).
    """

    model: str | FreshModel = "tiny"
    train: str | int = "full"
    epochs: int = 1
    n_envs: int = 32
    prompt_tokens: int = 16
    new_tokens: int = 32
    minibatches: int = 4
    reward: str = "rule"
    threads: int = 2
    device: str = "cpu"
    seed: int = 0
    policy_kwargs: Mapping[str, Any] | None = None
    ragged: bool = False

    def __post_init__(self) -> None:
        if self.n_envs % self.minibatches:
            raise ValueError(
                f"n_envs={self.n_envs} completions do not fall into minibatches={self.minibatches} equal ones: choose "
                "a multiple"
            )

    @property
    def tokens(self) -> int:
        """Return how many tokens an iteration samples."""
        return self.n_envs * self.new_tokens

    def load(self) -> tuple[Any, Any]:
        """Return the model, in float32 on the device, and its tokenizer."""
        if isinstance(self.model, FreshModel):
            import torch
            from transformers import AutoModelForCausalLM

            torch.manual_seed(self.seed)
            config = self.model.config(self.prompt_tokens + self.new_tokens)
            with torch.device(self.device):  # a billion weights take long on a CPU
                model: Any = AutoModelForCausalLM.from_config(config).eval()
            tokenizer = _word_tokenizer(self.model.vocab_size)
        else:
            model, tokenizer = load_causal_lm(self.model), copy.deepcopy(load_tokenizer(self.model))
        return model.to(self.device), tokenizer

    def prompts(self, tokenizer: Any) -> list[str]:
        """Return texts of exactly `prompt_tokens` tokens: pieces of reviews, or random words for a fresh model."""
        n, length = N_PROMPTS, self.prompt_tokens
        if isinstance(self.model, FreshModel):
            ids = np.random.default_rng(self.seed).integers(2, self.model.vocab_size, (n, length))
            return list(tokenizer.batch_decode(ids.tolist()))
        exact: list[str] = []
        rows = load_rows("sentiment", split="train")
        for start in range(0, len(rows), 64):  # as few as it takes: tokenizing all of them takes seconds
            reviews = tokenizer([f" {row['prompt']} {row['reference']}" for row in rows[start : start + 64]])[
                "input_ids"
            ]
            stream = list(chain.from_iterable(reviews))
            pieces = [stream[i : i + length] for i in range(0, len(stream) - length, length)]
            texts = tokenizer.batch_decode(pieces, skip_special_tokens=True)
            exact += [t for t, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True) if len(ids) == length]
            if len(exact) >= n:
                return exact[:n]
        if not exact:
            raise ValueError(f"prompt_tokens={length}: no piece of the reviews has exactly as many; choose fewer")
        return exact

    def prompt_ids(self, tokenizer: Any) -> torch.Tensor:
        """Return the prompts as `(n, prompt_tokens)` ids on the device."""
        import torch

        return torch.tensor(tokenizer(self.prompts(tokenizer))["input_ids"], device=self.device)

    def reward_fn(self) -> Callable[..., Sequence[float]]:
        """Return the reward as a function with TRL's signature and a `__name__`, which TRL needs."""
        if self.reward == "rule":
            return _rule
        scorer = get_reward(self.reward)

        def reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
            return [float(score) for score in scorer(prompts, completions)]

        return reward


class FixedLength(Task):
    """Continue a text to the full length: a task whose tokenizer has no EOS."""

    name = "fixed-length"
    default_model = None

    def __init__(self, tokenizer: Any, ends: bool = False) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        if not ends:
            self._tokenizer.eos_token = None

    def tokenizer(self, model: str | None) -> Any:
        """Return the given tokenizer."""
        return self._tokenizer

    def rows(self, split: str, data: str | Path | Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the given rows."""
        assert data is not None
        assert not isinstance(data, str | Path)
        return [dict(row) for row in data]


def _rule(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """Return the share of the letter e in each completion."""
    return [text.count("e") / (len(text) + 1) for text in completions]


def _word_tokenizer(vocab_size: int) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = ["<|pad|>", "<|eos|>", *(f"w{i}" for i in range(2, vocab_size))]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|pad|>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|eos|>")
