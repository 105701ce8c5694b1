"""Compare the rewards of a verifiers evaluation with those of the Gymnasium environment, for the same texts.

    python examples/verifiers/check.py --vf-eval ENV/bin/vf-eval --rows 8

It serves the environment with `rlhf serve-env`, answers verifiers as an OpenAI-compatible endpoint whose texts are
fixed, runs `vf-eval rlhf-served`, and writes the same texts into `gymnasium.make(...)`. Run it where rlhf-envs is
installed with the extra `openenv`; ENV is another virtual environment, with verifiers in it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zlib import crc32

import gymnasium as gym

import rlhf_envs  # noqa: F401  # registers the environments
from rlhf_envs.tokens import encode_after

HERE = Path(__file__).resolve().parent
FILMS = (" was a great film.", " is awful , dull and far too long", "", "  was fine .\n", "42", '{"message": "no"}')
HINTS = (" Read it again.", " Add them.", " Take some away.", " Add 1.")
TEXTS = FILMS + HINTS


def answer(messages: list[dict[str, Any]]) -> str:
    """Return the text that the endpoint says next in a conversation."""
    return TEXTS[crc32(json.dumps([one["content"] for one in messages]).encode()) % len(TEXTS)]


class Endpoint(BaseHTTPRequestHandler):
    """Answer requests of OpenAI's chat completions, whole or as a stream."""

    def do_POST(self) -> None:
        """Say the text that `answer` gives."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = answer(asked["messages"])
        about = {"id": "1", "created": 0, "model": asked["model"]}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        message = {"role": "assistant", "content": text}
        if asked.get("stream"):
            choice = {"index": 0, "delta": message, "finish_reason": "stop"}
            chunk = {**about, "object": "chat.completion.chunk", "choices": [choice], "usage": usage}
            kind, body = "text/event-stream", f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        else:
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            kind, body = (
                "application/json",
                json.dumps({**about, "object": "chat.completion", "choices": [choice], "usage": usage}),
            )
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def scripted_model() -> Iterator[str]:
    """Serve the endpoint, and yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def served(env_id: str) -> Iterator[str]:
    """Start `rlhf serve-env`, and yield its address."""
    command = [sys.executable, "-m", "agents.cli", "serve-env", env_id, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            words = server.stdout.readline().replace(",", " ").split()
            if not words:
                raise SystemExit("rlhf serve-env did not start")
            yield next(word for word in words if word.startswith("http://"))
        finally:
            server.terminate()


def evaluate(vf_eval: Path, url: str, rows: int, folder: Path, *flags: str) -> list[dict[str, Any]]:
    """Run `vf-eval` on the first rows of the test split, and return its traces in their order."""
    python_path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    with scripted_model() as model:
        command = [str(vf_eval), "rlhf-served", "--env.taskset.base-url", url, "-n", str(rows), "-m", "scripted"]
        command += ["--client.base-url", model, "--client.api-key-var", "NO_KEY", "--no-push", "--no-rich"]
        command += ["-o", str(folder), "--run.name", "check", *flags]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": python_path}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:] or done.stdout[-3000:])
    lines = (folder / "check" / "traces.jsonl").read_text(encoding="utf-8").splitlines()
    traces = [trace for line in lines for trace in json.loads(line)["traces"]]
    return sorted(traces, key=lambda trace: trace["task"]["data"]["index"])


@dataclass
class Row:
    """Hold what both say of one row: the turns of the agent and their reward."""

    index: int
    turns: list[str]
    verifiers: float
    gymnasium: float


def compare(env_id: str, traces: list[dict[str, Any]]) -> list[Row]:
    """Play the rows of traces in the Gymnasium environment, with the texts that the endpoint gave."""
    env: Any = gym.make(env_id, split="test").unwrapped
    found = []
    for trace in traces:
        if trace.get("errors"):
            raise SystemExit(f"verifiers: {trace['errors']}")
        index = trace["task"]["data"]["index"]
        turns = [node["message"].get("content", "") for node in trace["nodes"] if node["sampled"]]
        env.reset(seed=index, options={"index": index})
        total, ended = 0.0, False
        for text in turns:
            if ended:
                raise SystemExit(f"row {index}: the environment's episode ended before {text!r}")
            for token in [*encode_after(env.tokenizer, text), env.tokenizer.eos_token_id]:
                _, reward, ended, _, _ = env.step(token)
                total += float(reward)
                if ended:
                    break
        if not ended:
            raise SystemExit(f"row {index}: the environment's episode goes on after {len(turns)} turns")
        found.append(Row(index, turns, trace["rewards"]["served_reward"]["score"], total))
    return found


def main() -> None:
    """Print what both say of each row, and the largest difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vf-eval", type=Path, required=True, help="the program, in an environment with verifiers")
    parser.add_argument("--env", default="rlhf/Sentiment-v0")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("flags", nargs="*", help="further flags of vf-eval, after --")
    asked = parser.parse_args()
    with served(asked.env) as url, tempfile.TemporaryDirectory() as folder:
        rows = compare(asked.env, evaluate(asked.vf_eval, url, asked.rows, Path(folder), *asked.flags))
    for row in rows:
        print(f"{row.index:4} {row.verifiers:12.6f} {row.gymnasium:12.6f} {row.turns}")
    print(f"largest difference {max(abs(row.verifiers - row.gymnasium) for row in rows):.2e} over {len(rows)} rows")


if __name__ == "__main__":
    main()
