#!/bin/sh
# transformers 5.23.0: `transformers serve` accepts `logprobs`, `n` and `echo` for a completion, and ignores them.
#
# Expected: `logprobs=1` returns the log-probability of each token, as in OpenAI's API and vLLM, or is refused. A field that the
# server does not know is refused with 422, and a comment beside the list of unsupported chat fields says that these raise
# an error "to avoid silent misbehaviour".
# What happens: the answer is 200 and has no `logprobs`, not even null; three completions asked for are one. It has no token
# ids either, so a client cannot compute the log-probabilities itself: text does not always give the same tokens back.
# The server's log has one warning for each set of such fields, at their first request only. Chat completions do the same.
# Source: transformers/cli/serving/completion.py, UNUSED_LEGACY_COMPLETION_FIELDS; utils.py, BaseHandler._validate_request.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 "transformers[serving]==5.23.0" openai==3.57.0 fastapi==0.165.0 uvicorn==0.54.0
HF_HUB_OFFLINE=1 venv/bin/python - <<'PY'
import json
import socket
import subprocess
import time
from importlib.metadata import version
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import BPE
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

print(*(f"{name} {version(name)}" for name in ("transformers", "torch", "openai", "fastapi")))
letters = Tokenizer(BPE({letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}, []))
letters.decoder = Fuse()
PreTrainedTokenizerFast(tokenizer_object=letters, chat_template="{{ messages[0].content }}").save_pretrained("model")
shape = dict(vocab_size=26, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None)
GPT2LMHeadModel(GPT2Config(**shape)).save_pretrained("model")
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
command = ["venv/bin/transformers", "serve", "model", "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
server = subprocess.Popen(command, stdout=open("log", "w"), stderr=subprocess.STDOUT)


def wait():
    for _ in range(300):
        try:
            return urlopen(f"http://127.0.0.1:{port}/health").close()
        except OSError:
            assert server.poll() is None, open("log").read()
            time.sleep(0.5)
    raise TimeoutError(open("log").read())


def answer(path, **fields):
    body = json.dumps({"model": "model", "max_tokens": 4, **fields}).encode()
    request = Request(f"http://127.0.0.1:{port}/v1/{path}", body, {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=60) as response:
            status, found = response.status, json.load(response)["choices"]
    except HTTPError as failure:
        status, found = failure.code, json.load(failure)["detail"]
    print(f"{path} {fields}: {status} {found}")
    return status, found


try:
    wait()
    asked = [answer("completions", prompt="hello", logprobs=1) for _ in range(2)]
    asked.append(answer("completions", prompt="hello", n=3, echo=True))
    chat = answer("chat/completions", messages=[{"role": "user", "content": "hello"}], logprobs=True, top_logprobs=2)
    unknown = answer("completions", prompt="hello", return_token_ids=True)
finally:
    server.terminate()
    server.wait(30)
warnings = [line for line in open("log").read().splitlines() if "unsupported fields" in line]
print("in the server's log:", *warnings, sep="\n  ")
for status, choices in asked:
    assert status == 200 and [sorted(choice) for choice in choices] == [["finish_reason", "index", "text"]]
    assert len(choices[0]["text"]) == 4, "the prompt is not echoed"
assert chat[0] == 200 and [sorted(choice) for choice in chat[1]] == [["finish_reason", "index", "message"]]
assert unknown[0] == 422 and len(warnings) == 3, "the behaviour has changed"
PY
