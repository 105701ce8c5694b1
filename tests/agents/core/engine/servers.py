"""Servers to test engines with: the example's, which serves a real model, and one whose answers are written down."""

from __future__ import annotations

import json
import runpy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rlhf_envs.models import load_causal_lm

EXAMPLE = runpy.run_path(str(Path(__file__).parents[4] / "examples" / "engine" / "completions_server.py"))


class Handler(EXAMPLE["Handler"]):  # type: ignore[misc]
    """Answer the requests for new weights as vLLM and SGLang do, too, and note all paths."""

    def complete(self, body: dict[str, Any]) -> None:
        self.server.paths.append(self.path)
        super().complete(body)

    def do_POST(self) -> None:
        if self.path == "/v1/completions":
            super().do_POST()
            return
        self.server.paths.append(self.path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
        with self.server.one_at_a_time:
            self.answer(self.load(body))

    def load(self, body: dict[str, Any]) -> dict[str, Any]:
        server = self.server
        if self.path == "/v1/load_lora_adapter":
            server.models[body["lora_name"]] = load_causal_lm(body["lora_path"])
        elif self.path == "/v1/unload_lora_adapter":
            del server.models[body["lora_name"]]
        elif self.path == "/update_weights_from_disk":
            server.models[server.name] = load_causal_lm(body["model_path"])
        elif self.path == "/collective_rpc" and body == {"method": "reload_weights"}:
            server.models[server.name] = load_causal_lm(server.name)
        return {"success": True}


@contextmanager
def serving(model: str, port: int = 0) -> Iterator[Any]:
    """Serve a model; what is yielded has `url` and `paths`, the paths that were asked for."""
    server = EXAMPLE["Server"](model, port)
    server.RequestHandlerClass, server.paths = Handler, []
    with _run(server):
        yield server


@contextmanager
def answering(*answers: list[Any] | tuple[int, Any] | float) -> Iterator[Any]:
    """Answer one request after another: a list of choices as a stream, a status with its JSON, or seconds of silence.

    The last answer stays. What is yielded has `url` and `bodies`, the requests for completions.
    """

    class Scripted(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            answer = answers[min(len(self.server.bodies), len(answers)) - 1]
            if isinstance(answer, float):
                self.server.enough.wait(answer)
                return
            status, content = (200, None) if isinstance(answer, list) else answer
            self.send_response(status)
            self.end_headers()
            lines = [json.dumps(content)] if content else [f"data: {json.dumps(part)}\n" for part in answer]
            self.wfile.write("\n".join(lines).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    server.daemon_threads, server.bodies, server.enough = True, [], threading.Event()
    with _run(server):
        yield server
        server.enough.set()


@contextmanager
def _run(server: Any) -> Iterator[None]:
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
