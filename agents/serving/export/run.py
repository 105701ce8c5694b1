"""Export a trained model: write it in a format, read it back, and measure it against what it was."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from rlhf_envs.files import replace_folder
from rlhf_envs.models import load_config, load_tokenizer, load_with_adapters
from rlhf_envs.models.adapters import (
    adapter_base,
    base_checksum,
    has_adapters,
    is_adapter_folder,
    merge_adapters,
    save_adapters,
)
from rlhf_envs.models.vision import is_vision_config
from rlhf_envs.registration import check_environment

from ...core.adapters import Adapters
from ...core.models import save_drawing
from ...evaluation.prompt_counts import count_prompts
from ...evaluation.source import Source
from ...evaluation.statistics import check_episodes
from .card import SUMS, table_rows, write_card_of, write_sums
from .gguf.writing import check_family
from .measure import Exported, HeldOut, weight_bytes
from .onnx.writing import check_onnx_config
from .prune import prune, sparsity
from .recipe import Recipe
from .room import check_room, count_weights
from .write import read_back, reader_of, write

__all__ = ["Exported", "export"]


def export(
    source: Any,
    folder: str | Path,
    to: str = "merged",
    *,
    quantize: str | None = None,
    prune_share: float | None = None,
    prune_pattern: str | None = None,
    env_id: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    n_episodes: int = 64,
    split: str = "validation",
    seed: int = 0,
    force: bool = False,
    trust: bool = False,
) -> Exported:
    """Write a trained model into a folder, whole or not at all, with a card and checksums, and measure what it costs.

    Args:
        source: an agent, a policy, a model, a run folder, a bundle, or a model's name or folder.
        folder: the folder to write.
        to: "hf" (adapters alone where there are some, else the model), "merged" (a plain model), "gguf" or
            "onnx".
        quantize: "float16", "int8" or "int4" weights; float32 by default. In GGUF these are F16, Q8_0 and Q4_0; the
            int8 and int4 of "hf" and "merged" are safetensors of compressed-tensors.
        prune_share: the share of each linear layer's weights to set to 0, the smallest ones.
        prune_pattern: instead of it, "2:4": of every 4 neighbours the 2 largest stay.
        env_id: the environment whose prompts are completed; by default the run's own, else rlhf/Sentiment-v0.
        env_kwargs: further arguments of the environment.
        n_episodes: the number of prompts, from the `split` of its data.
        seed: of the sampling.
        force: replace an earlier export in `folder`.
        trust: load an SB3 zip, which holds pickles.

    Raises:
        ValueError: an argument is wrong, or the model does not fit the format. Nothing is written.
        FileExistsError: the folder holds something else, or an export that `force` does not give up.
        MemoryError, OSError: this machine has no room for it.
        ImportError: a package is missing or too old; the message has the command.
    """
    target, recipe = Path(folder), Recipe(to, quantize, prune_share, prune_pattern)
    _check_target(target, force)
    check_episodes(n_episodes)
    chosen = Source.of(source, trust)
    _check_source(chosen, target, to, quantize)
    default = "rlhf/Prompts-v0" if "data" in (env_kwargs or {}) else "rlhf/Sentiment-v0"
    env_id = check_environment(env_id or chosen.own_environment or default)
    network, base = _network(chosen)
    alone = to == "hf" and has_adapters(network)
    if alone and (recipe.prunes or quantize):
        raise ValueError(
            "to='hf' writes adapters alone, whose base stays as it is: take to='merged' to prune or quantise"
        )
    held = HeldOut(chosen, env_id, split, n_episodes, env_kwargs, seed)
    name = chosen.tokenizer_name
    tokenizer = held.batch.tokenizer if name is None else load_tokenizer(name)
    before = held.measure(4 * _count(network), reader_of(network), held.completions, sparsity(network))
    notes = _notes(chosen)
    with replace_folder(target) as unfinished:
        if alone:
            _save_alone(chosen, network, base, unfinished)
            tokenizer.save_pretrained(unfinished)
            zeros = before.sparsity
        else:
            model = _plain(chosen, network)
            if recipe.prunes:
                prune(model, prune_share, prune_pattern)
            zeros = sparsity(model)
            notes += write(model, tokenizer, unfinished, to, quantize, target.absolute().name)
        save_drawing(network, unfinished, **held.decoding, **_ending(held, chosen))
        found = read_back(unfinished, to)
        wrote = held.write(model, found.read) if found.model is None else held.write(found.model)
        after = held.measure(weight_bytes(unfinished), found.read, wrote, zeros)
        counted = count_prompts(n_episodes, min(n_episodes, len(held.batch.rows)), f"prompts of the split {split!r}")
        done = Exported(target, f"{counted} of {env_id}", before, after, table_rows(before, after), notes)
        kind = "adapters" if alone else to if to in ("gguf", "onnx") else "model"
        write_card_of(done, unfinished, recipe.describe(chosen.name), base, kind)
        write_sums(unfinished)
    return done


def _check_target(target: Path, force: bool) -> None:
    """Raise FileExistsError if something is there that must not be replaced."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / SUMS).is_file():
        raise FileExistsError(f"{target} exists and is no export: choose another name, or move it away")
    if not force:
        raise FileExistsError(f"{target} holds an export: choose another name, or give --force to replace it")


def _check_source(source: Source, target: Path, to: str, quantize: str | None) -> None:
    """Check that the model can be exported in this format and here, before its weights are loaded where possible."""
    if source.policy is not None and not source.policy.is_language_model:
        raise ValueError(
            f"{source.name} is a {type(source.policy).__name__}, more than a language model: no format holds it"
        )
    if source.policy is not None:
        config = source.policy.language_model.config
    else:
        config = load_config(source.model) if isinstance(source.model, str) else source.model.config
    if is_vision_config(config) or (source.policy is not None and source.policy.picture is not None):
        raise ValueError(f"{source.name} reads pictures ({config.model_type}), and exports are models of text alone")
    if to == "gguf":
        check_family(config)
    if to == "onnx":
        check_onnx_config(config)
    weights = count_weights(config) if isinstance(source.model, str) else _count(_network(source)[0])
    check_room(weights, quantize, target)


def _network(source: Source) -> tuple[PreTrainedModel, str | None]:
    """Return the model of a source, with its adapters if it has some, and the name of what it was trained from."""
    if source.policy is not None:
        return source.policy.language_model.model, source.policy.base_name or source.policy.model_name
    if not isinstance(source.model, str):
        return source.model, source.start
    base = adapter_base(source.model) if is_adapter_folder(source.model) else source.start or source.model
    return load_with_adapters(source.model), base


def _count(network: PreTrainedModel) -> int:
    """Return the number of weights of a model without its adapters, tied ones once."""
    return sum(p.numel() for name, p in network.named_parameters() if "lora_" not in name)


def _plain(source: Source, network: PreTrainedModel) -> PreTrainedModel:
    """Return a plain float32 model. A network that belongs to somebody stays as it is."""
    if source.policy is None and isinstance(source.model, str):
        return merge_adapters(network) if has_adapters(network) else network
    if not has_adapters(network):
        return copy.deepcopy(network).float()
    return Adapters(network).merged()


def _save_alone(source: Source, network: PreTrainedModel, base: str | None, folder: Path) -> None:
    """Write the adapters of a network alone."""
    if source.policy is not None and source.policy.language_model.adapters is not None:
        source.policy.language_model.adapters.save(folder, base)
    elif base is None:
        raise ValueError("the base of these adapters has no name to load it by: take to='merged'")
    else:
        save_adapters(network, folder, base, base_checksum(network))


def _ending(held: HeldOut, source: Source) -> dict[str, Any]:
    """Return when texts end in a policy's own environment, as fields of `generation_config.json`."""
    if source.policy is None:
        return {}
    return {"max_new_tokens": held.batch.max_new_tokens, "eos_token_id": [*held.batch.ends]}


def _notes(source: Source) -> list[str]:
    notes = []
    if source.best_of > 1:
        notes.append(
            f"The run keeps the best of {source.best_of} completions by its reward; the export is the model alone."
        )
    if source.masked or (source.policy is not None and source.policy.reads_action_masks):
        notes.append("The run chose tokens under its environment's masks, which the export does not have.")
    return notes
