"""Make a plain Hugging Face folder of what is to be served: a run, a bundle or a model, with adapters merged."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_envs.files import replace_json
from rlhf_envs.models import load_causal_lm, load_config, load_tokenizer, local_folder, model_ends, no_progress_bars
from rlhf_envs.models.adapters import is_adapter_folder

from ..saving.folders import CONFIG, MODEL, check_no_folder_of_runs, find_bundle, is_bundle
from ..saving.loading import load_policy
from .export.packed import check_packed

__all__ = ["ServedModel", "prepare"]

SETTINGS = "generation_config.json"
# How tokens are drawn where the model's own settings do not say: as they come, which is what OpenAI's API means by a
# temperature of 1. transformers would take the 50 likeliest alone, and without `do_sample` the likeliest at any
# temperature (findings/transformers_serve_decodes_greedily_at_any_temperature.sh).
AS_THEY_COME: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}


@dataclass(frozen=True)
class ServedModel:
    """Hold a model that an engine can load.

    Attributes:
        folder: a Hugging Face folder.
        name: what clients call it.
        version: "name@" and the first 12 digits of the SHA-256 of its weights. Completions are kept with it.
    """

    folder: Path
    name: str
    version: str


def prepare(source: str, into: Path, name: str | None = None, allow_gguf: bool = False) -> ServedModel:
    """Make a folder of a model in `into`, which is empty. Files that stay as they are become links.

    Args:
        source: a run's folder, a bundle, an export of the kind hf or merged, a Hugging Face folder, or a model's name.
        name: what clients call it; by default the last part of `source`.
        allow_gguf: take a folder whose weights are a GGUF, for a server elsewhere that reads it.

    Raises:
        ValueError: there is no such model, it is no language model, or its weights are in no file that is read here.
        ModuleNotFoundError: its weights have 8 or 4 bits, and what reads them is missing.
    """
    path = Path(source)
    bundle = find_bundle(path)
    if bundle is None and not is_adapter_folder(path / MODEL):
        check_no_folder_of_runs(path)
    chosen = name or path.resolve().name if path.exists() else name or source.rpartition("/")[2]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}", chosen):
        raise ValueError(f"name {chosen!r}: expected letters, digits and ._/-; give another, --name NAME")
    folder = into / re.sub(r"[^A-Za-z0-9._-]", "_", chosen)
    folder.mkdir(parents=True)
    written = path / MODEL
    if not is_bundle(path) and ((written / CONFIG).is_file() or is_adapter_folder(written)):
        _copy(str(written), folder, allow_gguf)
    elif bundle is not None:
        _write_policy(bundle, folder)
    else:
        _copy(local_folder(source), folder, allow_gguf)
    return ServedModel(folder, chosen, f"{chosen}@{_digest(folder)[:12]}")


def _write_policy(bundle: Path, folder: Path) -> None:
    """Write the policy of a bundle."""
    policy, _ = load_policy(bundle)
    if not getattr(policy, "is_language_model", True):
        raise ValueError(f"{bundle} holds more than a language model, which no engine knows: serve a run of PPO or SFT")
    policy.save_pretrained(folder, merge=True)


def _copy(source: str, folder: Path, allow_gguf: bool) -> None:
    """Link the files of a Hugging Face folder, or write its adapters merged into their base; let it draw tokens."""
    own = Path(source) / SETTINGS
    settings = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
    if is_adapter_folder(source):
        with no_progress_bars():
            load_causal_lm(source).save_pretrained(folder)
        load_tokenizer(source).save_pretrained(folder)
    else:
        if not [*Path(source).glob("*.safetensors")]:
            ggufs, others = [*Path(source).glob("*.gguf")], [*Path(source).glob("*.onnx")]
            if not ggufs and not others:
                raise ValueError(f"{source} has no weights in safetensors: write them with save_pretrained")
            if not (ggufs and allow_gguf):
                raise ValueError(
                    f"{(ggufs + others)[0]} is for other engines: start one on it, such as llama.cpp's server, "
                    "and give --upstream, or serve an export of the kind merged"
                )
        else:
            check_packed(load_config(source))
        for file in Path(source).iterdir():
            if file.is_file() and file.name != SETTINGS:
                (folder / file.name).symlink_to(file.resolve())
    draws = {} if settings.get("do_sample") else {**AS_THEY_COME, "do_sample": True}
    ends = {
        "eos_token_id": model_ends(source) or None,
        "pad_token_id": getattr(load_config(source), "pad_token_id", None),
    }
    (folder / SETTINGS).unlink(missing_ok=True)
    replace_json(folder / SETTINGS, {**ends, **settings, **draws})


def _digest(folder: Path) -> str:
    """Return the SHA-256 of the weights, in hexadecimal."""
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.gguf")]):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
