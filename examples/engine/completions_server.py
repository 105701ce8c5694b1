"""Serve completions of a model as token ids with log-probabilities: a small server to try an engine with.

It speaks what `agents` needs of the OpenAI completions protocol, as vLLM and SGLang do, and loads models by the names
in the requests (`--engine-sync folder`). It draws one token of one completion at a time.

python examples/engine/completions_server.py tiny 8000
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from rlhf_envs.models import load_causal_lm


class Server(ThreadingHTTPServer):
    """Hold the model that is served, and the newest one that a request has named."""

    daemon_threads, request_queue_size = True, 256

    def __init__(self, model: str, port: int = 0) -> None:
        self.name, self.models = model, {model: load_causal_lm(model)}
        self.one_at_a_time = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)

    def model(self, name: str) -> Any:
        with self.one_at_a_time:
            if name not in self.models:
                self.models = {self.name: self.models[self.name], name: load_causal_lm(name)}
            return self.models[name]

    @torch.no_grad()
    def tokens(self, model: Any, body: dict[str, Any]) -> Iterator[tuple[int, float]]:
        """Draw tokens after a prompt, and yield each with its log-probability."""
        cuts = LogitsProcessorList([TemperatureLogitsWarper(float(body["temperature"]))])
        cuts += [TopKLogitsWarper(body["top_k"])] if body["top_k"] > 0 else []
        cuts += [TopPLogitsWarper(body["top_p"])] if body["top_p"] < 1 else []
        generator = torch.Generator()
        generator.manual_seed(body["seed"]) if "seed" in body else generator.seed()
        ids, cache = torch.tensor([body["prompt"]]), None
        for _ in range(body["max_tokens"]):
            with self.one_at_a_time:
                answer = model(input_ids=ids, past_key_values=cache, use_cache=True)
            log_probs, cache = cuts(None, answer.logits[:, -1].float()).log_softmax(-1), answer.past_key_values
            ids = torch.multinomial(log_probs.exp(), 1, generator=generator)
            yield int(ids), float(log_probs[0, ids])
            if int(ids) in body["stop_token_ids"]:
                return


class Handler(BaseHTTPRequestHandler):
    """Answer `/v1/models` and `/v1/completions`."""

    server: Server

    def do_GET(self) -> None:
        self.answer({"data": [{"id": self.server.name}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
        try:
            self.complete(body) if self.path == "/v1/completions" else self.answer({"error": "no such path"}, 404)
        except (OSError, ValueError) as error:
            self.answer({"error": {"message": str(error)}}, 400)

    def complete(self, body: dict[str, Any]) -> None:
        tokens = list(self.server.tokens(self.server.model(body["model"]), body))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for i, (token, log_prob) in enumerate(tokens):
            ended = "stop" if token in body["stop_token_ids"] else "length"
            choice = {"text": "", "token_ids": [token], "logprobs": {"token_logprobs": [log_prob]}}
            choice["finish_reason"] = ended if i == len(tokens) - 1 else None
            self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def answer(self, content: dict[str, Any], status: int = 200) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: Any) -> None:
        """Print nothing per request."""


if __name__ == "__main__":
    server = Server(sys.argv[1] if len(sys.argv) > 1 else "tiny", int(sys.argv[2]) if len(sys.argv) > 2 else 8000)
    print(f"serving {server.name} at http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
