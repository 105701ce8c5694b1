"""Define a task: the hooks that the environments call from their loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_envs.datasets import check_split, load_rows
from rlhf_envs.datasets.messages import as_messages, shown
from rlhf_envs.datasets.pictures import COLUMN
from rlhf_envs.dialogs import METRICS, Dialog, Reply
from rlhf_envs.models import load_tokenizer
from rlhf_envs.rewards.registry import get_reward

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf_envs.task_weights import TaskWeights

__all__ = [
    "Task",
    "WordTask",
    "choose_reward",
    "find_rooms",
    "measure",
]


class Task:
    """Provide the data, the default reward and the hooks of an environment. Set attributes and override hooks.

    Keyword arguments of the class's `__init__` are arguments of its environments: with `def __init__(self, level: int =
    0)` there is `gymnasium.make(id, level=2)`. Let them be plain values that JSON has, with a default each.

    Attributes:
        name: a short name, for messages.
        default_reward: the name of a registered reward.
        judges: names of registered rewards that score completions too, and that agents do not train against.
        default_model: the model whose tokenizer is used by default; None if the task has its own tokenizer.
        default_data: the name of a bundled sample; None if the rows come from elsewhere.
        start: the flags of `rlhf sft ENV start` that make the model from which agents learn this task, "" for its
            defaults; None if they learn from `default_model` itself.
        pretraining: the arguments of `rlhf pretrain` that make a model which knows the task's language, from which the
            start is made: `SOURCE OUTPUT` and flags; None where `default_model` knows it.
        reads_pictures: whether every row needs an `image`, which the model sees before the prompt. Other tasks show the
            column `image` of a user's data to models that read pictures.
        max_prompt_tokens: the default of the environment's argument.
        max_new_tokens: the default of the environment's argument.
        max_turns: the default of the environment's argument: the agent's turns in an episode, None for no limit.
        least_turn: the fewest tokens that a turn of the agent can have. A reply after which there is less room ends the
            episode.
        masks_bind: whether the masks are rules of the task, so that agents which do not read them are warned of.
            False where they only spare an agent from what scores lowest.
        reply_format: the form of a reply after a prompt that is a string: a text with `{text}` and perhaps `{role}`.
            Conversations have the chat template's form.
        chat_template: the chat template of models that have none, as the environment's argument; None for no other.
        subtasks: the tasks of a mixture by name, see `rlhf_envs.tasks.mixture`; no other task has any.
    """

    name: str = "task"
    default_reward: str = ""
    judges: Sequence[str] = ()
    default_model: str | None = "tiny"
    default_data: str | None = None
    start: str | None = None
    pretraining: str | None = None
    reads_pictures: bool = False
    max_prompt_tokens: int = 16
    max_new_tokens: int = 32
    max_turns: int | None = None
    least_turn: int = 1
    masks_bind: bool = True
    reply_format: str = "\n{text}\n"
    chat_template: str | None = None
    subtasks: Mapping[str, Task] = MappingProxyType({})

    def tokenizer(self, model: str | None) -> PreTrainedTokenizerBase:
        """Return the tokenizer whose vocabulary is the action space."""
        if model is None:
            raise ValueError(f"task {self.name!r} needs a model: its tokenizer makes the action space")
        return load_tokenizer(model)

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the data: one dict per row, with a `prompt`. The other columns go to the reward function.

        Args:
            split: "train", "validation" or "test".
            data: rows of this split, which replace the task's data.
        """
        if data is not None:
            return [dict(row) for row in data]
        if self.default_data is None:
            raise ValueError(f"task {self.name!r} has no data of its own: pass data=<a .jsonl or .csv file>")
        return load_rows(self.default_data, split)

    def demonstrations(self, split: str) -> list[dict[str, Any]]:
        """Return rows of `prompt` and `completion` for `rlhf sft` to imitate: by default the rows' `reference`.

        Raises:
            ValueError: the task has no references.
        """
        rows = [row for row in self.rows(split, None) if row.get("reference")]
        if not rows:
            raise ValueError(
                f"task {self.name!r} has no column 'reference' to imitate: give rlhf sft a file of your own"
            )
        pairs = [{"prompt": row["prompt"], "completion": row["reference"]} for row in rows]
        return [{**pair, COLUMN: row[COLUMN]} if COLUMN in row else pair for pair, row in zip(pairs, rows, strict=True)]

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return the reward function for environments that are given none.

        Of a task with replies and no `default_reward` the score is 0: its rewards are those of turns.
        """
        return no_score if self.has_replies and not self.default_reward else get_reward(self.default_reward)

    def get_judge(self, name: str) -> Callable[..., Any]:
        """Return the one of its judges that has this name."""
        return get_reward(name)

    def subtask(self, row: Mapping[str, Any]) -> Task:
        """Return the task that a row of the data belongs to: this one, or of a mixture one of its `subtasks`."""
        return self.subtasks[row["task"]] if self.subtasks else self

    def replies(self, dialogs: Sequence[Dialog]) -> Sequence[Reply | str | None]:
        """Return the answers of users, tools or people to agents that ended their turn with EOS.

        It is called once a step, for all rows whose turn has ended, and no call is repeated. Override it, and episodes
        have turns.

        Args:
            dialogs: the conversations, see `rlhf_envs.Dialog`. Each ends with the turn that is to be answered.

        Returns:
            for each dialog an `rlhf_envs.Reply`, a text, which a user says, or None, which ends the episode.
        """
        raise NotImplementedError

    @property
    def has_replies(self) -> bool:
        """Return whether somebody answers the agent: whether `replies` is overridden."""
        return getattr(self.replies, "__func__", None) is not Task.replies

    def action_masks(
        self, input_ids: np.ndarray, lengths: np.ndarray, prompt_lengths: np.ndarray, steps: np.ndarray
    ) -> np.ndarray | None:
        """Return which tokens may come next in n episodes, (n, V) or (V,) bool, True where allowed; None masks nothing.

        The environment's arguments may mask further tokens. Agents that read masks call this before every token.

        Args:
            input_ids: (n, L) int64 contexts, right-padded. Do not change them.
            lengths: (n,) tokens in the context, prompt included.
            prompt_lengths: (n,) tokens in the prompt.
            steps: (n,) actions taken in the episode.
        """
        return None

    def turn_masks(self, turns: Sequence[np.ndarray], rooms: np.ndarray) -> np.ndarray | None:
        """Return which tokens may come next by what is written of n turns, (n, V) bool; None masks nothing.

        It is called as `action_masks` is, and a token has to be allowed by both.

        Args:
            turns: the tokens of each turn under way; of a task without replies, all after the prompt.
            rooms: (n,) the tokens for which there is room, the next one included.
        """
        return None

    @property
    def has_masks(self) -> bool:
        """Return whether `action_masks` or `turn_masks` is overridden."""
        own = (getattr(hook, "__func__", None) for hook in (self.action_masks, self.turn_masks))
        return [*own] != [Task.action_masks, Task.turn_masks]

    def task_weights(self, rows: Sequence[Mapping[str, Any]], split: str) -> TaskWeights | None:
        """Return what draws the rows: by their task in a mixture, by their level in a curriculum; None draws any."""
        return None

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return metrics of n finished episodes: by name, n numbers each, NaN where an episode has none.

        Prompts and completions are texts, those of conversations as people read them. The metrics stand in
        `info["metrics"]`, in TensorBoard as `rlhf/<name>` and in evaluations, and comparisons, searches
        and early stopping can go by them.
        """
        return {}

    def dialog_metrics(self, dialog: Dialog) -> dict[str, float]:
        """Return metrics of an episode with replies that has ended, by what its dialog's `state` keeps.

        They stand where those of `metrics` do. Every dialog has the same names, also one without a turn.
        """
        return {}

    def corpus_metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, float]:
        """Return metrics of n episodes together that are no means over episodes, such as macro-F1 or BLEU.

        Evaluations call it with their completions, and with bootstrap samples of these for the intervals. NaN stands
        for what the episodes do not give, such as the F1 of one class. Beside the columns of the data there is
        `log_probs`: the log-probability of each completion under the policy that wrote it.
        """
        return {}

    @property
    def has_corpus_metrics(self) -> bool:
        """Return whether `corpus_metrics` is overridden."""
        return getattr(self.corpus_metrics, "__func__", None) is not Task.corpus_metrics

    def metric_names(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the names of its metrics, found by measuring an empty completion of the first row."""
        columns = {name: [value] for name, value in rows[0].items() if name != "prompt"}
        episode = [shown(as_messages(rows[0]["prompt"], "prompt"))], [""]
        own = {**self.metrics(*episode, columns), **self.corpus_metrics(*episode, {**columns, "log_probs": [0.0]})}
        dialog = Dialog(as_messages(rows[0]["prompt"], "prompt"), rows[0], np.random.default_rng(0))
        return [*([*METRICS, *self.dialog_metrics(dialog)] if self.has_replies else ()), *own]


def no_score(completions: Sequence[Any], **columns: Any) -> list[float]:
    """Score every completion with 0."""
    return [0.0] * len(completions)


class WordTask(Task):
    """Provide a task with its own small vocabulary, one token per word.

    It needs no model and no data, and all its splits are the same.

    Attributes:
        words: the vocabulary after `<|pad|>` (0) and `<|eos|>` (1).
        prompts: the prompts, written in these words.
    """

    default_model = None
    words: Sequence[str] = ()
    prompts: Sequence[str] = ()

    def tokenizer(self, model: str | None) -> PreTrainedTokenizerBase:
        """Return a tokenizer with pad, EOS and one token per word."""
        if model is not None:
            raise ValueError(f"task {self.name!r} has a vocabulary of its own: leave out model={model!r}")
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from tokenizers.pre_tokenizers import WhitespaceSplit
        from transformers import PreTrainedTokenizerFast

        tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(["<|pad|>", "<|eos|>", *self.words])}))
        tokenizer.pre_tokenizer = WhitespaceSplit()
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|eos|>")

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return one row per prompt, or the rows of `data`."""
        if data is not None:
            return self._check_words(super().rows(split, data))
        check_split(split, self.name)
        return [{"prompt": prompt} for prompt in self.prompts]

    def _check_words(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows, after checking that their prompts use only words of the vocabulary."""
        for i, row in enumerate(rows):
            if unknown := set(str(row.get("prompt", "")).split()) - {*self.words}:
                raise ValueError(
                    f"task {self.name!r}: the prompt of row {i} has words outside the vocabulary: "
                    f"{', '.join(sorted(unknown))}; there are {', '.join(self.words)}"
                )
        return rows


def measure(
    task: Task, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
) -> dict[str, Sequence[float]]:
    """Return a task's metrics of n finished episodes, after checking that there are n of each."""
    metrics, n = task.metrics(prompts, completions, columns), len(completions)
    if wrong := [name for name, values in metrics.items() if len(values) != n]:
        raise ValueError(
            f"task {task.name!r}: metrics returned {len(metrics[wrong[0]])} values of {wrong[0]!r} for {n} "
            "completions: return one for each"
        )
    return metrics


def find_rooms(task: Task, rows: Sequence[Mapping[str, Any]], max_new_tokens: int) -> list[int]:
    """Return how many tokens may follow each row's prompt: `max_new_tokens`, or fewer if a mixture's task has fewer.

    Raises:
        ValueError: no task of a mixture has so many.
    """
    if not task.subtasks:
        return [max_new_tokens] * len(rows)
    if max_new_tokens > task.max_new_tokens:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} is more than any task of the mixture has ({task.max_new_tokens}): give "
            "it to a task, tasks=[{'id': ..., 'max_new_tokens': ...}, ...]"
        )
    return [min(task.subtask(row).max_new_tokens, max_new_tokens) for row in rows]


def choose_reward(
    task: Task,
    max_new_tokens: int,
    name: str | None,
    reward_fn: Callable[..., Any] | None,
    kwargs: Mapping[str, Any] | None,
) -> Callable[..., Any]:
    """Return `reward_fn` if it is given, else the named reward, else the task's.

    Raises:
        ValueError: two rewards are given, there is none of this name, or it does not take the arguments.
    """
    if name is not None and reward_fn is not None:
        raise ValueError(f"reward={name!r} and reward_fn are two rewards: give one (they compose with + and *)")
    if kwargs and reward_fn is not None:
        raise ValueError(f"reward_kwargs={kwargs!r} are for a reward given by name: build them into reward_fn")
    if not isinstance(kwargs, Mapping | None):
        raise ValueError(f"reward_kwargs={kwargs!r}: expected arguments and their values, {{'name': value}}")
    if reward_fn is not None:
        if not callable(reward_fn):
            raise ValueError(f"reward_fn must be callable, got {reward_fn!r}")
        return reward_fn
    if name is None and not kwargs:
        return task.reward(max_new_tokens)
    return get_reward(name or task.default_reward, **(kwargs or {}))
