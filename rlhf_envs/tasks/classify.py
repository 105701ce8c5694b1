"""Define classification of any texts: the user's columns, label words and raters."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_envs.datasets.messages import Prompt, said
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.labels import LabelTask, macro_f1, make_trie, read_label
from rlhf_envs.tokens import encode_after

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Classify", "ClassifyNews", "VoteReward", "read_votes"]

MOST_LABELS = 100
SAMPLES = {"mood": "tweets", "news": "news", "topics": "topics"}  # names of bundled data


def read_votes(value: Any) -> dict[str, float]:
    """Return how many raters gave each label.

    Args:
        value: the raters' labels as a list, the counts by label, either of these as JSON, or labels with ";" between.

    Raises:
        ValueError: the value is none of these, or a count is negative, or nobody voted.
    """
    if isinstance(value, str):
        value = json.loads(value) if value.lstrip()[:1] in ("[", "{") else value.split(";")
    if isinstance(value, Mapping):
        votes = {str(label).strip(): float(n) for label, n in value.items() if n is not None}
    elif isinstance(value, Sequence | np.ndarray):
        votes = {label: float(n) for label, n in Counter(str(label).strip() for label in value).items() if label}
    else:
        raise ValueError(f"{value!r} are no votes: give a list of labels, or their counts by label")
    if not votes or min(votes.values()) < 0 or sum(votes.values()) == 0:
        raise ValueError(f"{value!r} are no votes: give at least one, and no negative count")
    return votes


class VoteReward:
    """Score an answer with what a rater drawn at random would give it: +1 for the rater's label, else -1.

    That is twice the share of the raters who gave the label, less 1. Without raters it is +1 for the label and -1 for
    all other answers.

    Args:
        labels: the label words.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels  # the task's own list, which grows as it reads rows

    def __call__(
        self,
        completions: Sequence[Prompt],
        label: Sequence[str],
        votes: Sequence[Mapping[str, float] | None] | None = None,
        **columns: Any,
    ) -> list[float]:
        """Return one score per completion."""
        answers = [read_label(said(completion), self.labels) for completion in completions]
        rows = zip(answers, label, votes or [None] * len(label), strict=True)
        return [2 * agreement(answer, wanted, given) - 1 for answer, wanted, given in rows]


def agreement(answer: str | None, label: str, votes: Mapping[str, float] | None) -> float:
    """Return the share of the raters who gave this answer; without raters whether it is the label."""
    if not votes:
        return float(answer == label)
    return float(votes.get(answer, 0.0)) / sum(votes.values()) if answer is not None else 0.0


class Classify(LabelTask):
    """Classify texts of any kind with label words of your own, by the labels or by the votes of raters.

    ## Description
    `gymnasium.make("rlhf/Classify-v0", data="reviews.csv", columns={"prompt": "text", "label": "category"})`. The
    labels are those that the data has, sorted, numbers by size; `labels=["bad", "good"]` states them,
    and a row with another one is an error. A column `votes` has what several raters said of a row: a list of labels,
    counts by label, or labels with ";" between. Where there is no `label`, it is what most raters said, of equals the
    first.

    Without data it is the mood of 3,873 tweets that 20 or more people rated (2,615 train, 290 validation, 968 test):
    negative, neutral or positive, as at least half of the raters said. `rlhf/ClassifyNews-v0`, or `sample="news"`, has
    1,800 sentences of editorials. There is no sample of finance: too few of the sentences are about money for one.

    `sample="topics"` has 960 descriptions of software, 120 of each of eight topics (648 train, 72 validation, 240
    test): editors, fonts, games, graphics, mail, science, sound and web, which are the sections into which Debian's
    maintainers put the packages.

    `rlhf sft rlhf/Classify-v0 start --epochs 0.5` teaches a model the form of these answers, with `--env-kwargs
    sample:topics` that of topics, and `rlhf sft DATA start` that of your own; `rlhf train --env rlhf/Classify-v0
    --model start`, with the same `--env-kwargs`, goes on from there.

    ## Observation space
    `input_ids` and `attention_mask`, (104,) each: a prompt of up to 96 tokens and up to 8 new ones. A longer text loses
    its beginning.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny".

    ## Reward
    +1 for the label and -1 for any other answer. With votes it is the mean over the raters: twice the share of those
    who gave the answer, less 1. Evaluations report `macro_f1`, `macro_f1_gain` (less the macro-F1 of always giving the
    commonest label), `balanced_accuracy`, `brier` (calibration), `accuracy` and `agreement`.

    ## Episode end
    EOS, or 8 new tokens.

    ## Arguments
    `data`, `columns`, the `labels`, the `template` of the prompt, by default `{text}`, a new line and "Label:", and
    without data the `sample`: "mood", "news" or "topics". It takes the other arguments of `TextGenerationEnv`, such as
    `model` and `max_new_tokens`.

    ## Version history
    v0: the first version.

    Args:
        labels: the label words; by default those of the rows that are read.
        template: the prompt, with `{text}` in it.
        sample: the bundled data, a name of `SAMPLES`; by default those of the class.

    Raises:
        ValueError: there are fewer than two labels, two are one word in other letters, the template has no `{text}`,
            or other braces, or there is no such sample, or one beside `data`.
    """

    name = "classify"
    default_data = "tweets"
    start = "--epochs 0.5"
    weighted = False
    max_prompt_tokens = 96
    max_new_tokens = 8

    _tokenizer: PreTrainedTokenizerBase | None = None
    _room: int | None = None
    _masked: Sequence[str] = ()

    def __init__(
        self, labels: Sequence[str] | None = None, template: str | None = None, sample: str | None = None
    ) -> None:
        if labels is not None and (isinstance(labels, str) or len(labels) < 2):
            raise ValueError(f"labels={labels!r}: give a list of at least two label words")
        self.stated = labels is not None
        self.labels: list[str] = [str(label).strip() for label in labels or ()]
        if template is not None:
            if "{text}" not in template:
                raise ValueError(f"template={template!r} has no {{text}}, where the text of a row goes")
            try:
                template.format(text="")
            except (KeyError, IndexError, AttributeError, ValueError) as error:
                raise ValueError(
                    f"template={template!r} has braces that are not {{text}} ({error}): write {{{{ and }}}} for others"
                ) from None
            self.template = template
        self.sample = sample
        if sample is not None:
            if not isinstance(sample, str) or sample not in SAMPLES:
                raise ValueError(f"sample={sample!r}: there are {', '.join(SAMPLES)}; data of your own are data=...")
            self.default_data = SAMPLES[sample]
        self.check_words()

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the rows. Rows of `data` need a `prompt`, which is the text, and a `label` or `votes`.

        Raises:
            ValueError: there is a `sample` too, a row has neither, or a label that is not among the stated ones, a
                label does not fit into an episode, or all training rows have one label.
        """
        if data is not None and self.sample is not None:
            raise ValueError(f"sample={self.sample!r} beside data=...: give one of them")
        rows = [self.read_row(number, row) for number, row in enumerate(Task.rows(self, split, data))]
        if not self.stated:
            found = {label for row in rows for label in (row["label"], *row.get("votes", ()))}
            if len(found) > MOST_LABELS:
                raise ValueError(
                    f"task {self.name!r}: {len(found):,} different labels in {len(rows):,} rows, such as "
                    f"{min(found)!r}: take another column, columns={{'label': 'category'}} (--column label:category), "
                    "or state them, labels=[...]"
                )
            self.labels[:] = sort_labels({*self.labels, *found})
        self.check_words()
        return super().rows(split, rows)

    def read_row(self, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row with its votes and its label read: the label given, or what most raters said."""
        where, read = f"task {self.name!r}: row {number}", dict(row)
        if row.get("votes") in (None, ""):
            read.pop("votes", None)
        else:
            try:
                read["votes"] = read_votes(row["votes"])
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        label = row.get("label")
        given = "" if label is None else str(label).strip()
        if not given and "votes" in read:
            votes = read["votes"]
            order = [*self.labels] if self.stated else []
            given = max([*order, *sort_labels(votes)], key=lambda one: votes.get(one, 0.0))
        if not given:
            raise ValueError(
                f"{where} has no label and no votes: it has {', '.join(map(repr, row))}; fill them, or rename one, "
                "columns={'label': 'category'} (--column label:category)"
            )
        return {**read, "label": given}

    def check_labels(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raise a ValueError, which names the row, if a label or a vote is unknown."""
        super().check_labels(rows)
        for number, row in enumerate(rows):
            if unknown := [label for label in row.get("votes", ()) if label not in self.labels]:
                raise ValueError(
                    f"task {self.name!r}: row {number} has a vote for {unknown[0]!r}, which is not among "
                    f"{', '.join(map(repr, self.labels))}"
                )

    def check_words(self) -> None:
        """Raise a ValueError if two labels are one word in other letters, or one has more tokens than an episode."""
        first: dict[str, str] = {}
        for label in self.labels:
            other = first.setdefault(label.casefold(), label)
            if other != label or not label:
                raise ValueError(
                    f"task {self.name!r}: the labels {other!r} and {label!r} are read as one answer: spell them alike"
                )
            if self._tokenizer is not None and self._room is not None:
                n_tokens = len(encode_after(self._tokenizer, f" {label}"))
                if n_tokens > self._room:
                    raise ValueError(
                        f"task {self.name!r}: the label {label!r} has {n_tokens} tokens, more than "
                        f"max_new_tokens={self._room}: raise it, or take a shorter word"
                    )

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return the mean of +1 and -1 over the raters, or by the label, and remember the room for labels."""
        self._room = max_new_tokens
        return VoteReward(self.labels)

    def tokenizer(self, model: str | None) -> PreTrainedTokenizerBase:
        """Return the tokenizer."""
        self._tokenizer = Task.tokenizer(self, model)
        return self._tokenizer

    def action_masks(
        self, input_ids: np.ndarray, lengths: np.ndarray, prompt_lengths: np.ndarray, steps: np.ndarray
    ) -> np.ndarray | None:
        """Allow what goes on to a label, and after a label EOS. The labels are those read so far."""
        if self._tokenizer is not None and self._masked != self.labels:
            self._trie = make_trie(
                [encode_after(self._tokenizer, f" {label}") for label in self.labels], self._tokenizer
            )
            self._masked = [*self.labels]
        return super().action_masks(input_ids, lengths, prompt_lengths, steps)

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return `accuracy`, `answered`, and with votes `agreement`, the share of the raters who gave the answer."""
        found = super().metrics(prompts, completions, columns)
        if "votes" in columns:
            rows = zip(self.answers(completions), columns["label"], columns["votes"], strict=True)
            found["agreement"] = [agreement(*row) for row in rows]
        return found

    def corpus_metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, float]:
        """Return the metrics of `LabelTask`, and `macro_f1_gain`: macro-F1 less that of the commonest label always."""
        found = super().corpus_metrics(prompts, completions, columns)
        common = Counter(columns["label"]).most_common(1)[0][0]
        always = macro_f1(columns["label"], [common] * len(completions), self.labels)
        return {**found, "macro_f1_gain": found["macro_f1"] - always}


class ClassifyNews(Classify):
    """Tell the mood of a sentence of news: negative, neutral or positive, by the votes of 20 raters.

    ## Description
    `Classify` with 1,800 sentences of editorials of the New York Times, 600 of each label (1,220 train, 130 validation,
    450 test). The sentences of one editorial are in one split. The label is what at least half of the raters said.
    `rlhf sft rlhf/ClassifyNews-v0 start` teaches a model the form of the answers.

    ## Observation space
    `input_ids` and `attention_mask`, (104,) each: a prompt of up to 96 tokens and up to 8 new ones.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny".

    ## Reward
    Twice the share of the raters who gave the answer, less 1. Evaluations report what those of `Classify` do.

    ## Episode end
    EOS, or 8 new tokens.

    ## Arguments
    `gymnasium.make("rlhf/ClassifyNews-v0")` needs none. It takes those of `Classify`.

    ## Version history
    v0: the first version.
    """

    name = "classify-news"
    default_data = "news"
    start = ""


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Return labels in order: by size if all are numbers, else by the alphabet."""
    try:
        return sorted(labels, key=lambda label: (float(label), label))
    except ValueError:
        return sorted(labels)
