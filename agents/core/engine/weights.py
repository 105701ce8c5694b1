"""Hand the weights of a policy over to an engine: write them to a folder, and tell the server."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any, Literal, get_args

from rlhf_envs.files import discard

from .client import CompletionsEngine, EngineError

__all__ = ["Sync", "WeightSync"]

Sync = Literal["vllm", "sglang", "folder"]


class WeightSync:
    """Give an engine the weights of a policy.

    "vllm": adapters (`train="lora"`) are loaded by `/v1/load_lora_adapter`; the server needs `--enable-lora` and
    `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`. A whole model is written over the folder that the server was started with,
    and reloaded by `/collective_rpc`, which needs `VLLM_SERVER_DEV_MODE=1`. "sglang": `/update_weights_from_disk`, with
    adapters merged. "folder": a new folder every time, whose path is the model's name in the requests, for a server
    that loads models by their names.

    Args:
        kind: one of these three.
        folder: where the weights are written, on a disk that the server reads too. For a whole model with "vllm" it is
            the folder that the server was started with. By default a temporary folder, which goes in the end.

    Raises:
        ValueError: `kind` is none of the three.
    """

    def __init__(self, engine: CompletionsEngine, kind: Sync, folder: str | Path | None = None) -> None:
        if kind not in get_args(Sync):
            raise ValueError(f"sync={kind!r} of the engine: expected {', '.join(map(repr, get_args(Sync)))}")
        self.engine, self.kind = engine, kind
        if folder is None:
            folder, given = tempfile.mkdtemp(prefix="rlhf-engine-"), False
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        else:
            given = True
        self.folder = Path(folder).absolute()
        self._given = given
        self._session, self._n = secrets.token_hex(4), 0  # a server may still have the adapters of another run
        self._last: Path | None = None

    def push(self, policy: Any) -> None:
        """Let the engine draw the next completions with the policy's weights.

        Raises:
            EngineError: the server does not answer, refuses, or could not load the weights.
            ValueError: a whole model goes to vLLM, and no folder is named.
        """
        if self.kind == "vllm" and policy.language_model.adapters is None:
            self._overwrite(policy)
            return
        self._n += 1
        name = f"policy-{self._session}-{self._n}"
        path = self.folder / name
        policy.save_pretrained(path, merge=self.kind == "sglang")
        if self.kind == "vllm":
            self.engine.call("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})
            if self._last is not None:
                self.engine.call("POST", "/v1/unload_lora_adapter", {"lora_name": self._last.name})
            self.engine.model = name
        elif self.kind == "sglang":
            answer = self.engine.call(
                "POST", "/update_weights_from_disk", {"model_path": str(path), "flush_cache": True}
            )
            if not answer.get("success"):
                raise EngineError(f"{self.engine.url} did not load the weights of {path}: {answer}")
        else:
            self.engine.model = str(path)
        if self._last is not None:
            discard(self._last)
        self._last = path

    def _overwrite(self, policy: Any) -> None:
        """Write the model over the folder that vLLM serves, and let it load the folder again."""
        if not self._given:
            raise ValueError(
                "sync='vllm' without adapters: name the folder that vLLM was started with (--engine-folder), or train "
                "adapters (--train lora)"
            )
        policy.save_pretrained(self.folder, merge=True)
        self.engine.call("POST", "/collective_rpc", {"method": "reload_weights"})
        self.engine.call("POST", "/reset_prefix_cache?reset_running_requests=true")
