"""Score by a learned reward model: any Hugging Face `AutoModelForSequenceClassification` with one label."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from rlhf_envs.datasets.messages import Prompt, as_answer, opening, said
from rlhf_envs.datasets.templates import render
from rlhf_envs.dialogs import ENDED
from rlhf_envs.models import (
    first_line,
    load_tokenizer,
    model_errors,
    no_progress_bars,
    not_at_hand,
    resolve,
    split_label,
)
from rlhf_envs.models.adapters import check_whole
from rlhf_envs.models.devices import find_device
from rlhf_envs.rewards.base import Reward
from rlhf_envs.tokens import encode_texts, escape_control_tokens, keep_end

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "SIGMOID",
    "RewardModel",
    "as_model_texts",
    "encode",
    "find_head",
    "finished_texts",
    "load_classifier",
    "load_reward_model",
    "model_length",
    "score_columns",
    "score_ids",
    "score_matrix",
    "score_texts",
    "with_ending",
]

logger = logging.getLogger(__name__)

SIGMOID = "sigmoid"  # the `reward_link` of a cost, see `rlhf_envs.preferences.costs`
MARK = "¤"  # stands for what is said, in a conversation that shows how a template ends one


def load_classifier(model: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a trained reward model, in float32 and evaluation mode, and its tokenizer.

    Args:
        model: a name, folder or hub id, and "@" with a label's name if the classifier has several. A classifier of two
            labels is read by its second one if none is named.

    Raises:
        ValueError: the model is unknown, has more than two labels and none is named, or has no trained head.
    """
    from transformers import AutoModelForSequenceClassification

    name, label = split_label(model)
    folder = resolve(name)
    check_whole(folder, name)
    try:
        with no_progress_bars():
            classifier, loading = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
            )
    except model_errors() as error:
        absent = not_at_hand(name, "reward model") if isinstance(error, OSError) else None
        raise ValueError(absent or f"the reward model {name!r} cannot be loaded ({first_line(error)})") from error
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"]))
        raise ValueError(
            f"{model!r} is not a reward model, its weights lack {missing}: train one with fit_bradley_terry"
        )
    classifier.config.reward_label = _find_label(classifier, name, label)
    tokenizer = load_tokenizer(name)
    if classifier.config.pad_token_id is None:
        classifier.config.pad_token_id = tokenizer.pad_token_id
    return classifier.eval(), tokenizer


def _find_label(classifier: PreTrainedModel, name: str, label: str) -> int | None:
    """Return the index of the label whose score counts; None for a reward model with one label."""
    labels = {str(known): int(index) for index, known in (classifier.config.id2label or {}).items()}
    if label:
        if label not in labels:
            raise ValueError(f"{name!r} has no label {label!r}, but {', '.join(labels)}")
        return labels[label] if len(labels) > 1 else None
    if len(labels) > 2:
        raise ValueError(f"{name!r} has {len(labels)} labels: name the one to reward, {name}@{next(iter(labels))}")
    if len(labels) == 2:
        second = next(known for known, index in labels.items() if index == 1)
        logger.warning("the reward is the log-odds of the label %r of %r: %s@LABEL names another", second, name, name)
    return 1 if len(labels) == 2 else None


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
    """Tokenize texts, and keep the end of a text longer than `max_length`; a text without tokens becomes one EOS."""
    rows = encode_texts(tokenizer, texts, closed=True)
    if max_length is not None:
        rows = [keep_end(tokenizer, ids, max_length) for ids in rows]
    nothing = next(
        i for i in (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, 0) if i is not None
    )
    return [ids or [nothing] for ids in rows]


def find_head(model: PreTrainedModel) -> tuple[str, torch.nn.Linear]:
    """Return the last linear map of a sequence classifier, whose outputs are the scores, and its name.

    Raises:
        ValueError: the classifier does not end in a linear map.
    """
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    if not linear or linear[-1][0].startswith(f"{model.base_model_prefix}."):
        raise ValueError(f"{type(model).__name__} does not end in a linear map, so it is no sequence classifier")
    return linear[-1]


def model_length(model: PreTrainedModel) -> int | None:
    """Return how many tokens of a text a model reads: as many as in its fit, else its positions; None for no limit.

    The positions of RoBERTa and its like begin after the pad id: 514 of them are for 512 tokens.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    tables = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    unused = max((getattr(table, "padding_idx", None) or -1 for table in tables), default=-1) + 1
    limits = (getattr(model.config, "reward_max_length", None), positions and positions - unused)
    return min((limit for limit in limits if limit is not None), default=None)


def score_ids(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the raw scores of a batch of token ids, (n,): right-padded, read at the last real token."""
    return score_columns(model, rows)[:, 0]


def score_columns(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return all outputs of a model's head for a batch of token ids, (n, outputs) float32.

    A classifier that is read by one of its labels has one output: the label's log-odds against the others, or its own
    logit where several labels may hold (`problem_type="multi_label_classification"`).
    """
    length = max(map(len, rows))
    pad = model.config.pad_token_id or 0
    ids = torch.tensor([[*row, *[pad] * (length - len(row))] for row in rows], device=model.device)  # (n, length)
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    mask = torch.arange(length, device=model.device) < lengths[:, None]
    logits: torch.Tensor = model(input_ids=ids, attention_mask=mask.long()).logits
    return _label_score(model, logits.float())


def _label_score(model: PreTrainedModel, logits: torch.Tensor) -> torch.Tensor:
    """Return the outputs (n, outputs), or where one label counts its score, (n, 1)."""
    label = getattr(model.config, "reward_label", None)
    if label is None:
        return logits
    chosen = logits[:, label : label + 1]
    if model.config.problem_type == "multi_label_classification":
        return chosen
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1)
    return chosen - others.logsumexp(dim=1, keepdim=True)


def score_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], batch_size: int = 64
) -> NDArray[np.float64]:
    """Return the raw scores of texts, (n,) float64, in batches of texts of like length."""
    return score_matrix(model, tokenizer, texts, batch_size)[:, 0]


@torch.inference_mode()
def score_matrix(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], batch_size: int = 64
) -> NDArray[np.float64]:
    """Return all outputs of a model's head for texts, (n, outputs) float64, in batches of texts of like length."""
    rows = encode(tokenizer, texts, model_length(model))
    if model.config.pad_token_id is None:
        batch_size = 1  # transformers finds the last real token by the pad id; without one it reads single rows only
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    scores = [score_columns(model, [rows[i] for i in batch]).double().cpu().numpy() for batch in batches]
    return np.concatenate(scores)[np.argsort(order)] if scores else np.empty((0, 1))


def with_ending(model: PreTrainedModel, completions: Sequence[str], finish_reasons: Sequence[str] | None) -> list[str]:
    """Return completions, with the ending of the texts that the model was fitted to where EOS ended an episode."""
    ending = getattr(model.config, "reward_ending", "") if finish_reasons is not None else ""
    ended = [reason in ENDED for reason in finish_reasons or [""] * len(completions)]
    return [text + ending * at_end for text, at_end in zip(completions, ended, strict=True)]


def finished_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    completions: Sequence[Prompt],
    finish_reasons: Sequence[str] | None,
) -> tuple[list[str], list[str]]:
    """Return the texts of prompts and completions, with what a finished completion ends with where EOS ended it.

    A model that was fitted here says what that is (`with_ending`). One from elsewhere reads a finished conversation as
    its chat template writes it, to the end of the assistant's turn, as in TRL; without reasons all are finished.
    """
    asked, answers = as_model_texts(tokenizer, prompts, completions)
    if any(hasattr(model.config, name) for name in ("reward_gain", "reward_ending")) or not tokenizer.chat_template:
        return asked, with_ending(model, answers, finish_reasons)
    conversation = [{"role": "user", "content": MARK}, *as_answer(MARK)]
    end = render(tokenizer, conversation).rpartition(MARK)[2]
    reasons = finish_reasons or ["eos"] * len(answers)
    given = zip(answers, completions, reasons, strict=True)
    return asked, [text + end * (reason in ENDED and not isinstance(was, str)) for text, was, reason in given]


def as_model_texts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], completions: Sequence[Prompt]
) -> tuple[list[str], list[str]]:
    """Return the texts of prompts and completions, conversations in the chat template or else in role lines.

    They are the texts of a fit (see `rlhf_envs.datasets.messages.as_text`) up to the end of the assistant's turn, which
    `with_ending` adds to what is finished. Where a completion has several turns, all but its last one are written into
    the first text, as if they had been given.
    """
    space = "" if tokenizer.chat_template else " "
    pairs = [_at_last_turn(*pair) for pair in zip(prompts, completions, strict=True)]
    answers = [
        text if isinstance(text, str) else space + escape_control_tokens(tokenizer, said(text)) for _, text in pairs
    ]
    return [opening(prompt, tokenizer) for prompt, _ in pairs], answers


def _at_last_turn(prompt: Prompt, completion: Prompt) -> tuple[Prompt, Prompt]:
    """Return a conversation before the assistant's last turn, and that turn. Strings are returned as they are."""
    several = isinstance(completion, list) and len(completion) > 1 and completion[-1]["role"] == "assistant"
    if isinstance(prompt, str) or isinstance(completion, str) or not several:
        return prompt, completion
    return [*prompt, *completion[:-1]], completion[-1:]


class RewardModel(Reward):
    """Return the normalised score of a reward model, which reads `prompt + completion`.

    The score is `raw * config.reward_gain + config.reward_bias`, which `rlhf_envs.preferences.normalise` sets. A model
    from elsewhere, without the two, gives its raw score. With `config.reward_link="sigmoid"` (a cost that was fitted to
    flags of harm) it is the sigmoid of that, a probability.

    Args:
        model: "tiny-reward", a local folder or a hub id of a sequence classifier with one label, or with "@" and the
            label that is rewarded: "folder@POSITIVE". Its score is the label's log-odds.
        batch_size: texts per forward pass.
        device: where the model lives: "cpu", "cuda", or "auto" for the device of the policy that is trained on it,
            and a GPU if there is one until there is a policy.

    Raises:
        ValueError: the model is unknown or no reward model, or there is no such device.
    """

    reads_messages = True

    def __init__(self, model: str = "tiny-reward", batch_size: int = 64, device: str = "auto") -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.follows, device = device == "auto", find_device(device)
        self.name = Path(model).name
        self.batch_size = batch_size
        self.model, self.tokenizer = load_classifier(model)
        self.model.to(device)  # type: ignore[arg-type]
        gain, bias = (getattr(self.model.config, *usual) for usual in (("reward_gain", 1.0), ("reward_bias", 0.0)))
        self.link = getattr(self.model.config, "reward_link", None)
        if self.link not in (None, SIGMOID):
            raise ValueError(
                f"the configuration of {model!r} has reward_link={self.link!r}: expected {SIGMOID!r} or none"
            )
        try:
            self.gain, self.bias = float(gain), float(bias)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the configuration of the reward model {model!r} has reward_gain={gain!r} and reward_bias={bias!r}: "
                "expected numbers"
            ) from error

    def follow(self, device: Any) -> None:
        """Move to the device of a policy, unless a device was asked for."""
        if self.follows:
            self.model.to(device)

    def as_texts(self, prompts: Sequence[Prompt], completions: Sequence[Prompt]) -> tuple[list[str], list[str]]:
        """Return the texts of prompts and completions, see `as_model_texts`."""
        return as_model_texts(self.tokenizer, prompts, completions)

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Prompt],
        finish_reasons: Sequence[str] | None = None,
        **columns: object,
    ) -> NDArray[np.float64]:
        """Score the texts, (n,) float64; those that ended with EOS as `finished_texts` has them."""
        asked, answers = finished_texts(self.model, self.tokenizer, prompts, completions, finish_reasons)
        texts = [prompt + completion for prompt, completion in zip(asked, answers, strict=True)]
        scores = score_texts(self.model, self.tokenizer, texts, self.batch_size) * self.gain + self.bias
        return expit(scores) if self.link == SIGMOID else scores


def load_reward_model(name: str = "tiny-reward") -> RewardModel:
    """Load a reward model by name (the registry's "tiny-reward")."""
    return RewardModel(name)
