"""Save a model as the package ships it: float16 weights and a tokenizer."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["save_float16"]


def save_float16(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Save a model with float16 weights and a configuration that loads them as float32.

    It saves no generation settings: `config.json` has the pad and EOS ids, and the agent decides how to sample.
    """
    folder = Path(folder)
    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    _edit_json(folder / "config.json", dtype="float32", use_cache=True)
    _edit_json(folder / "tokenizer_config.json", is_local=None, local_files_only=None)
    for file in folder.iterdir():
        file.chmod(0o644)  # a wheel keeps permissions, and safetensors are written for their owner alone


def _edit_json(path: Path, **changes: object) -> None:
    """Set entries of a JSON file; None removes an entry."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    content = {key: value for key, value in content.items() if key not in changes or changes[key] is not None}
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
