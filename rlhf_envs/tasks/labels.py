"""Define the base of tasks whose answer is one of a few label words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_envs.datasets.messages import Prompt, said
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.references import check_prompts
from rlhf_envs.tokens import encode_after

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LabelReward", "LabelTask", "balanced_accuracy", "macro_f1", "read_label"]

AROUND = " \t\r\n.!\"'\u3000。．！“”‘’「」『』"  # what may stand around an answer


def read_label(completion: str, labels: Sequence[str]) -> str | None:
    """Return the label that a completion is: nothing else but space, quotes and a full stop, in any case; else None.

    Chinese quotes, full stops and exclamation marks count as the English ones.
    """
    answer = completion.strip(AROUND).casefold()
    return next((label for label in labels if label.casefold() == answer), None)


def balanced_accuracy(true: Sequence[str], answers: Sequence[str | None]) -> float:
    """Return the mean over the classes of `true` of the share of right answers."""
    found, wanted = np.array(answers, dtype=object), np.array(true, dtype=object)
    return float(np.mean([(found[wanted == label] == label).mean() for label in sorted({*true})]))


def macro_f1(true: Sequence[str], answers: Sequence[str | None], labels: Sequence[str]) -> float:
    """Return the mean over `labels` of the F1 score; a label that neither stands in `true` nor is answered counts 0.

    As scikit-learn's `f1_score(average="macro", labels=labels, zero_division=0)` has it; no answer is a wrong answer.
    """
    found, wanted = np.array(answers, dtype=object), np.array(true, dtype=object)
    scores = []
    for label in labels:
        hits = int(((found == label) & (wanted == label)).sum())
        scores.append(2 * hits / max(int((found == label).sum() + (wanted == label).sum()), 1))
    return float(np.mean(scores))


class LabelReward:
    """Score an answer with its class's weight if it is the right label, with minus that weight if not.

    Args:
        labels: the label words.
        weights: the weight of each label, by which errors on a rare class cost more; 1 each by default.
    """

    def __init__(self, labels: Sequence[str], weights: Mapping[str, float] | None = None) -> None:
        self.labels, self.weights = tuple(labels), dict(weights or dict.fromkeys(labels, 1.0))

    def __call__(self, completions: Sequence[Prompt], label: Sequence[str], **columns: Any) -> list[float]:
        """Return one score per completion."""
        answers = [read_label(said(completion), self.labels) for completion in completions]
        pairs = zip(answers, label, strict=True)
        return [(1.0 if answer == wanted else -1.0) * self.weights[wanted] for answer, wanted in pairs]


class LabelTask(Task):
    """Answer with one of a few label words: the base of classification tasks.

    Its rows have `prompt` (the template with the text in it), `text`, `label` and `reference` (a space and the label).
    The agent answers with a label and EOS. Agents that read masks can write nothing else; others may.

    Attributes:
        labels: the label words.
        template: the prompt, with `{text}` in it.
        weighted: whether each class weighs the same in the reward, however many rows it has.
    """

    labels: Sequence[str] = ()
    template: str = "{text}\nLabel:"
    weighted: bool = True
    max_prompt_tokens = 64
    max_new_tokens = 4
    masks_bind = False

    _trie: Mapping[tuple[int, ...], np.ndarray] | None = None

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the rows. Rows of `data` need a `prompt`, which is the text, and a `label`.

        Raises:
            ValueError: a row has a prompt of messages, no label, or one that is not among the labels, or all training
                rows have one label.
        """
        rows = super().rows(split, data)
        check_prompts(rows, self.name)
        self.check_labels(rows)
        if split == "train" and len(rows) > 1 and len({row["label"] for row in rows}) == 1:
            raise ValueError(
                f"task {self.name!r}: all {len(rows)} rows have the label {rows[0]['label']!r}: give at least two"
            )
        return [self.fill(row) for row in rows]

    def fill(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row with the template around its text."""
        text = row.get("text", row["prompt"])
        return {**row, "prompt": self.template.format(text=text), "text": text, "reference": f" {row['label']}"}

    def check_labels(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raise a ValueError, which names the row, if a label is missing or unknown."""
        for number, row in enumerate(rows):
            if "label" not in row:
                raise ValueError(
                    f"task {self.name!r}: row {number} has no column 'label': it has {', '.join(map(repr, row))}; "
                    "rename one, columns={'label': 'category'} (--column label:category)"
                )
            if row["label"] not in self.labels:
                raise ValueError(
                    f"task {self.name!r}: row {number} has the label {row['label']!r}, which is not among "
                    f"{', '.join(map(repr, self.labels))}"
                )

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return +1 for the right label and -1 for any other answer, times the class's weight."""
        return LabelReward(self.labels, self.class_weights() if self.weighted else None)

    def class_weights(self) -> dict[str, float]:
        """Return for each label the rows per class over the rows of that label, in the bundled training split."""
        counts = Counter(str(row["label"]) for row in self.rows("train", None))
        return {label: counts.total() / (len(self.labels) * counts[label]) for label in self.labels}

    def tokenizer(self, model: str | None) -> PreTrainedTokenizerBase:
        """Return the tokenizer, and remember how it writes the labels."""
        tokenizer = super().tokenizer(model)
        self._trie = make_trie([encode_after(tokenizer, f" {label}") for label in self.labels], tokenizer)
        return tokenizer

    def action_masks(
        self, input_ids: np.ndarray, lengths: np.ndarray, prompt_lengths: np.ndarray, steps: np.ndarray
    ) -> np.ndarray | None:
        """Allow what goes on to a label, and after a label EOS."""
        if self._trie is None:
            return None
        written = (
            tuple(ids[start:end].tolist()) for ids, start, end in zip(input_ids, prompt_lengths, lengths, strict=True)
        )
        return np.stack([self._trie.get(ids, self._trie[ANYTHING]) for ids in written])

    def answers(self, completions: Sequence[str]) -> list[str | None]:
        """Return the label that each completion is, or None."""
        return [read_label(completion, self.labels) for completion in completions]

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return `accuracy` and `answered`, the share of completions that are a label."""
        answers = self.answers(completions)
        right = [float(answer == label) for answer, label in zip(answers, columns["label"], strict=True)]
        return {"accuracy": right, "answered": [float(answer is not None) for answer in answers]}

    def corpus_metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, float]:
        """Return `balanced_accuracy`, `macro_f1` and `brier`.

        `brier` is the mean squared difference between the probability of the given answer and whether it was right:
        with two labels the Brier score (1950).
        """
        true, answers = columns["label"], self.answers(completions)
        right = np.array([answer == label for answer, label in zip(answers, true, strict=True)], dtype=float)
        return {
            "balanced_accuracy": balanced_accuracy(true, answers),
            "macro_f1": macro_f1(true, answers, self.labels),
            "brier": float(((np.exp(columns["log_probs"]) - right) ** 2).mean()),
        }


ANYTHING = (-1,)  # the key of a trie's mask for what is no beginning of a label


def make_trie(labels: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> dict[tuple[int, ...], np.ndarray]:
    """Return for each beginning of the tokens of a label which tokens may come next, (V,) bool; after a label EOS."""
    trie: dict[tuple[int, ...], np.ndarray] = {ANYTHING: np.ones(len(tokenizer), dtype=bool)}
    for ids in labels:
        for at, token in enumerate([*ids, tokenizer.eos_token_id]):
            trie.setdefault(tuple(ids[:at]), np.zeros(len(tokenizer), dtype=bool))[token] = True
    return trie
