"""What a task is: hooks that the environments call; they own the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_envs.rewards.registry import get_reward

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

__all__ = ["Task", "WordTask"]

SPLITS = ("train", "validation", "test")


class Task:
    """The base of every task. Set the attributes and override the hooks that differ.

    Attributes:
        name: short name, for messages.
        default_reward: a registered reward's name.
        judges: registered rewards that score the completions too, and that agents do not train against.
        default_model: the model whose tokenizer is used by default; None where the task brings its own tokenizer.
        default_data: a bundled sample's name, or None where rows need no data.
        max_prompt_tokens: the default of the environment's argument.
        max_new_tokens: the default of the environment's argument.
    """

    name: str = "task"
    default_reward: str = ""
    judges: Sequence[str] = ()
    default_model: str | None = "tiny"
    default_data: str | None = None
    max_prompt_tokens: int = 16
    max_new_tokens: int = 32

    def tokenizer(self, model: str | None) -> PreTrainedTokenizerBase:
        """The tokenizer whose vocabulary is the action space."""
        if model is None:
            raise ValueError(f"task {self.name!r} needs a model: its tokenizer makes the action space")
        from rlhf_envs.models import load_tokenizer

        return load_tokenizer(model)

    def rows(self, split: str, data: str | Path | Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """The data: dicts with a `prompt` each; the other columns go to the reward.

        Args:
            split: "train", "validation" or "test".
            data: a file that replaces the task's data, or rows.
        """
        if data is not None and not isinstance(data, str | Path):
            return [dict(row) for row in data]
        source = data if data is not None else self.default_data
        if source is None:
            raise ValueError(f"task {self.name!r} has no data of its own: pass data=<a .jsonl or .csv file>")
        from rlhf_envs.datasets import load_rows

        return load_rows(source, split=split)

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """The reward function used where the environment is given none."""
        return get_reward(self.default_reward)

    def reply(self, prompt: str, completion: str, row: Mapping[str, Any]) -> str | None:
        """What a user, a tool or a person answers when the agent ends its turn with EOS; None ends the episode.

        Args:
            prompt: the prompt as the agent saw it.
            completion: everything after it so far, earlier replies included.
            row: the row of the data.
        """
        return None

    def action_masks(
        self, input_ids: np.ndarray, lengths: np.ndarray, prompt_lengths: np.ndarray, steps: np.ndarray
    ) -> np.ndarray | None:
        """The tokens that may come next in n episodes, (n, V) or (V,) bool, True where allowed; None restricts nothing.

        It adds to what the environment's arguments mask, and is asked before every token of agents that read masks.

        Args:
            input_ids: (n, L) int64 contexts, right-padded; not to be changed.
            lengths: (n,) tokens in the context.
            prompt_lengths: (n,) of these, the prompt's.
            steps: (n,) actions taken in the episode.
        """
        return None

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Numbers about n finished episodes, by name, n each; they appear in `info["metrics"]`."""
        return {}


class WordTask(Task):
    """A task with a vocabulary of its own, a token a word; it needs no model and no data, and its splits are the same.

    Attributes:
        words: the vocabulary after `<|pad|>` (0) and `<|eos|>` (1).
        prompts: the prompts, in these words.
    """

    default_model = None
    words: Sequence[str] = ()
    prompts: Sequence[str] = ()

    def tokenizer(self, model: str | None) -> PreTrainedTokenizerBase:
        """Pad, EOS and a token a word."""
        if model is not None:
            raise ValueError(f"task {self.name!r} has a vocabulary of its own: leave out model={model!r}")
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from tokenizers.pre_tokenizers import WhitespaceSplit
        from transformers import PreTrainedTokenizerFast

        tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(["<|pad|>", "<|eos|>", *self.words])}))
        tokenizer.pre_tokenizer = WhitespaceSplit()
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|eos|>")

    def rows(self, split: str, data: str | Path | Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """A row a prompt, or the rows of `data`."""
        if data is not None:
            return self._check_words(super().rows(split, data))
        if split not in SPLITS:
            raise ValueError(f"task {self.name!r} has no split {split!r}; there are {', '.join(SPLITS)}")
        return [{"prompt": prompt} for prompt in self.prompts]

    def _check_words(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for i, row in enumerate(rows):
            if unknown := set(str(row.get("prompt", "")).split()) - {*self.words}:
                raise ValueError(
                    f"task {self.name!r}: the prompt of row {i} has words outside the vocabulary: {sorted(unknown)}; "
                    f"there are {', '.join(self.words)}"
                )
        return rows
