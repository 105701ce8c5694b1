"""Writing a model into the package: float16 weights, a tokenizer and a model card, in one atomic step."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["replace_folder", "save_float16"]


def save_float16(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Save a model with float16 weights and a configuration that loads them as float32.

    No generation settings are saved: the pad and EOS ids stand in `config.json`, and sampling is the agent's business.
    """
    folder = Path(folder)
    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    _edit_json(folder / "config.json", dtype="float32", use_cache=True)
    _edit_json(folder / "tokenizer_config.json", is_local=None, local_files_only=None)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors are written for their owner alone, which a wheel would carry on


def _edit_json(path: Path, **changes: object) -> None:
    """Set the entries of a JSON file; None removes one."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    content = {key: value for key, value in content.items() if key not in changes or changes[key] is not None}
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


class replace_folder:
    """A context that yields an empty folder beside `target` and puts it in its place if the block succeeds."""

    def __init__(self, target: str | Path) -> None:
        self.target = Path(target).resolve()

    def __enter__(self) -> Path:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._parent = Path(tempfile.mkdtemp(prefix=f".{self.target.name}-", dir=self.target.parent))
        new = self._parent / "new"
        new.mkdir()
        return new

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        try:
            if exception_type is None:
                if self.target.exists():
                    os.replace(self.target, self._parent / "old")
                os.replace(self._parent / "new", self.target)
        finally:
            shutil.rmtree(self._parent)
