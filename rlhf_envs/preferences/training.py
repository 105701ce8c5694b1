"""Share what all fits of reward models need: the backbone, the part that learns, batches of similar length, steps."""

from __future__ import annotations

import contextlib
import copy
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from torch import nn

from rlhf_envs.models import load_tokenizer, no_progress_bars, resolve
from rlhf_envs.models.adapters import check_whole
from rlhf_envs.rewards.reward_model import find_head, model_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "NothingToFit",
    "Train",
    "TrainingOptions",
    "check_fit",
    "load_backbone",
    "make_batches",
    "optimise",
    "trained_part",
]

logger = logging.getLogger(__name__)

Train = str | int  # "full", "head", "lora", or the number of last blocks that learn together with the head
LEARNING_RATES = {"full": 2e-4, "head": 1e-2, "lora": 2e-3}  # AdamW's default by what learns; k blocks learn as "full"
LORA_RANK, LORA_ALPHA = 8, 16
PAD = "<|pad|>"


class NothingToFit(ValueError):
    """Raise where rows tell no texts apart, so that nothing can be learned from them or measured on them."""


class TrainingOptions(TypedDict, total=False):
    """Name the keyword arguments that every fit takes; `optimise` documents them and holds their defaults."""

    train: Train
    epochs: int
    batch_size: int
    learning_rate: float | None
    weight_decay: float
    warmup_share: float
    max_grad_norm: float
    bf16: bool
    seed: int
    on_step: Callable[[int, int, float], None] | None


def load_backbone(model: str, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model as a sequence classifier with one label, in float32 and evaluation mode, and its tokenizer.

    The head of a reward model is kept. A model without a head gets a new one, whose output starts at 0.

    Args:
        model: a name (see `rlhf_envs.models.resolve`) of a causal language model, an encoder or a reward model.
        seed: seeds the weights that are missing below the head (an encoder's pooler, say).

    Raises:
        ValueError: the model is unknown, has adapters alone, or has a head of several labels.
    """
    from transformers import AutoModelForSequenceClassification

    check_whole(resolve(model), model)
    with no_progress_bars(), torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.default_generator.manual_seed(seed)
        classifier, loading = AutoModelForSequenceClassification.from_pretrained(
            resolve(model),
            num_labels=1,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,  # else transformers asks at a terminal whether to run code of the model's folder
        )
    if loading["mismatched_keys"]:
        raise ValueError(f"{model!r} has a head of several labels: start from a model without a head or with one label")
    name, head = find_head(classifier)
    if f"{name}.weight" in loading["missing_keys"]:
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
    return classifier.eval(), _with_own_pad(classifier, load_tokenizer(model))


def _with_own_pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return the tokenizer, and give the model its pad id; a pad token is added if there is none besides EOS.

    transformers reads the score at the last token that is no padding. If EOS were the padding, a finished text would
    get the score of an unfinished one.
    """
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer = copy.deepcopy(tokenizer)  # the other one is shared
        tokenizer.add_special_tokens({"pad_token": PAD})
        embedding: Any = model.get_input_embeddings()
        if len(tokenizer) > embedding.num_embeddings:
            with torch.random.fork_rng(devices=[]):  # the new row is drawn, and nothing reads it
                model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' table of weights that are new or left out: a head is always among them."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def check_fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    n: int,
    n_held_out: int,
    what: str,
    max_length: int | None = None,
) -> int | None:
    """Check a model, a tokenizer and the numbers of rows, and write pad id and length into the model's configuration.

    Returns:
        How many tokens of a text the model reads, None without a limit: `max_length`, which is saved with the model as
        `config.reward_max_length`, but at most its positions.

    Raises:
        ValueError: the model has several labels, there are no rows, or the tokenizer has no pad token.
    """
    if model.config.num_labels != 1:
        raise ValueError(f"a reward model has one label, this model has {model.config.num_labels}: pass num_labels=1")
    if not n or not n_held_out:
        raise ValueError(f"{n} {what} to fit and {n_held_out} held out: both need at least one")
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no pad token, which marks where a text ends: set tokenizer.pad_token")
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        logger.warning(
            "the pad token %r is EOS too, so this model will not read whether a text ended: give it a pad token "
            "of its own",
            tokenizer.pad_token,
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    if max_length is not None:
        model.config.reward_max_length = max_length
    return model_length(model)


def optimise(
    model: PreTrainedModel,
    lengths: Sequence[int],
    loss_of: Callable[[Sequence[int]], torch.Tensor],
    *,
    train: Train = "full",
    epochs: int = 1,
    batch_size: int = 32,
    learning_rate: float | None = None,
    weight_decay: float = 0.01,
    warmup_share: float = 0.05,
    max_grad_norm: float = 1.0,
    bf16: bool = False,
    seed: int = 0,
    on_step: Callable[[int, int, float], None] | None = None,
    further: Sequence[nn.Parameter] = (),
) -> None:
    """Minimise a mean loss over rows with AdamW, in place and without dropout.

    Args:
        model: the model to fit, on its device.
        lengths: tokens of each row; a batch holds rows of similar length.
        loss_of: returns the mean loss, a scalar, of the rows with the given indices.
        train: which part of the model learns, see `trained_part`.
        epochs: passes over the rows.
        batch_size: rows per step.
        learning_rate: its highest value. By default 2e-4 ("full" or k blocks), 2e-3 ("lora") or 1e-2 ("head").
        weight_decay: AdamW's weight decay.
        warmup_share: the learning rate rises linearly over this share of the steps, then falls linearly to 0.
        max_grad_norm: larger gradients are scaled down to this norm.
        bf16: autocast the forward pass to bfloat16.
        seed: seeds the order of the rows and an adapter's weights.
        on_step: called after each step with (step, steps, loss).
        further: a few parameters of the loss that learn too, such as the thresholds of ratings; with a learning rate
            of at least 1e-2 and without decay, since they are on the scale of the scores.

    Raises:
        ValueError: `epochs` or `batch_size` is below 1, `train` is unknown, or the loss is not finite.
    """
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs ({epochs}) and batch_size ({batch_size}) must be at least 1")
    batches = [b for epoch in range(epochs) for b in make_batches(lengths, batch_size, random.Random(seed + epoch))]
    rate = LEARNING_RATES.get(str(train), LEARNING_RATES["full"]) if learning_rate is None else learning_rate
    training = model.training
    model.eval()
    with trained_part(model, train, seed) as chosen:
        groups = [{"params": chosen, "lr": rate, "weight_decay": weight_decay}]
        if further:
            groups.append({"params": list(further), "lr": max(rate, 1e-2), "weight_decay": 0.0})
        optimizer = torch.optim.AdamW(groups, eps=1e-6)
        warmup = max(1, int(warmup_share * len(batches)))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, (len(batches) - step) / max(1, len(batches) - warmup))
        )
        for step, batch in enumerate(batches, start=1):
            with torch.autocast(model.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext():
                loss = loss_of(batch)
            value = loss.item()
            if not np.isfinite(value):
                raise ValueError(f"the loss is {value} at step {step} of {len(batches)}: lower learning_rate ({rate})")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*chosen, *further], max_grad_norm)
            optimizer.step()
            schedule.step()
            if on_step is not None:
                on_step(step, len(batches), value)
    model.train(training)


@contextmanager
def trained_part(model: PreTrainedModel, train: Train, seed: int = 0) -> Iterator[list[nn.Parameter]]:
    """Let a part of a model learn while the block runs, and yield that part's parameters.

    - "full": the whole model.
    - "head": everything after the last block (a final norm or pooler, and the head).
    - a number k: the last k blocks and everything after them.
    - "lora": the head, and adapters at every linear map of the blocks (Hu et al., 2021,
      https://arxiv.org/abs/2106.09685). They are merged into the weights at the end, so the model stays plain.

    Raises:
        ValueError: `train` is none of these, or the model's blocks are not found.
        ModuleNotFoundError: "lora" needs peft, which is not installed.
    """
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with _adapters(model, seed) if train == "lora" else contextlib.nullcontext():
        if train != "lora":
            model.requires_grad_(train == "full")
        if train != "full":
            for parameter in _parameters_after(model, train if isinstance(train, int) else _blocks_of(train)):
                parameter.requires_grad_(True)
        try:
            yield [parameter for parameter in model.parameters() if parameter.requires_grad]
        finally:
            for parameter, required in before:
                parameter.requires_grad_(required)


def _blocks_of(train: str) -> int:
    if train not in ("head", "lora"):
        raise ValueError(f'train is {train!r}: choose "full", "head", "lora" or a number of last blocks')
    return 0


def _find_blocks(model: PreTrainedModel) -> tuple[str, int]:
    """Return the name and the length of the list of a model's blocks, which is found by its length."""
    n = int(model.config.get_text_config().num_hidden_layers)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == n:
            return name, n
    raise ValueError(f'the {n} blocks of {type(model).__name__} are not found, so train can only be "full"')


def _parameters_after(model: PreTrainedModel, k: int) -> list[nn.Parameter]:
    """Return the parameters of the last k blocks and of all modules registered after them."""
    blocks, n = _find_blocks(model)
    if isinstance(k, bool) or not 0 <= k <= n:
        raise ValueError(f"train: the last {k} blocks of {type(model).__name__}: it has {n}")
    named = list(model.named_parameters())
    if k:
        start = next(i for i, (name, _) in enumerate(named) if name.startswith(f"{blocks}.{n - k}."))
    else:
        start = 1 + max(i for i, (name, _) in enumerate(named) if name.startswith(f"{blocks}."))
    return [parameter for _, parameter in named[start:]]


@contextmanager
def _adapters(model: PreTrainedModel, seed: int) -> Iterator[None]:
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("train='lora' needs peft: pip install 'rlhf-envs[train]'") from error
    from transformers.pytorch_utils import Conv1D

    blocks, _ = _find_blocks(model)
    maps = {
        name: m
        for name, m in model.named_modules()
        if name.startswith(f"{blocks}.") and isinstance(m, nn.Linear | Conv1D)
    }
    config = LoraConfig(
        r=LORA_RANK,
        lora_alpha=LORA_ALPHA,
        target_modules=list(maps),
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in maps.values()),
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        inject_adapter_in_model(config, model)
    try:
        yield
    finally:
        for name, module in list(model.named_modules()):
            if isinstance(module, BaseTunerLayer):
                module.merge()
                parent, _, attribute = name.rpartition(".")
                setattr(model.get_submodule(parent), attribute, module.get_base_layer())


def make_batches(lengths: Sequence[int], batch_size: int, generator: random.Random) -> list[list[int]]:
    """Return the rows in shuffled batches of similar length: sorted within pools of 32 batches, then shuffled again."""
    order = list(range(len(lengths)))
    generator.shuffle(order)
    pool = 32 * batch_size
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        near = sorted(order[start : start + pool], key=lambda i: lengths[i])
        batches += [near[i : i + batch_size] for i in range(0, len(near), batch_size)]
    generator.shuffle(batches)
    return batches
