#!/bin/sh
# transformers 5.23.0: `transformers serve` decodes greedily at any temperature, unless the model's own settings say to sample.
#
# Expected: `temperature=1` samples from the model, as in OpenAI's API (where it is the default) and vLLM; 0 is greedy.
# Several completions of a prompt, for best-of-n or for preference pairs, then differ with the seed.
# What happens: a temperature of 0 turns sampling off, and no other turns it on. If the model's `generation_config.json` has no
# `do_sample: true` (a saved GPT-2 has none), temperatures of 0, 1 and 5 with any seed give one and the same
# text. The answer is 200; the server's log has one line, that 'temperature' "may be ignored", at the first such request.
# A request samples with `generation_config='{"do_sample": true, ...}'`, a field that OpenAI's API does not have.
# Source: transformers/cli/serving/utils.py, BaseHandler._build_generation_config.
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


def text(path="completions", **fields):
    asked = {"prompt": "hello"} if path == "completions" else {"messages": [{"role": "user", "content": "hello"}]}
    body = json.dumps({"model": "model", "max_tokens": 16, **asked, **fields}).encode()
    request = Request(f"http://127.0.0.1:{port}/v1/{path}", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as response:
        choice = json.load(response)["choices"][0]
    found = choice["text"] if path == "completions" else choice["message"]["content"]
    print(f"{path} {fields}: {found}")
    return found


try:
    wait()
    greedy = text(temperature=0)
    hot = [text(temperature=temperature, seed=seed) for temperature in (1, 5) for seed in (1, 2)]
    hot.append(text("chat/completions", temperature=5, seed=1))
    settings = json.dumps({"do_sample": True, "max_new_tokens": 16})
    sampled = [text(generation_config=settings, temperature=1, seed=seed) for seed in (1, 2)]
finally:
    server.terminate()
    server.wait(30)
said = [line for line in open("log").read().splitlines() if "may be ignored" in line]
print("in the server's log:", *said, sep="\n  ")
assert set(hot) == {greedy}, "the behaviour has changed"
assert len({greedy, *sampled}) == 3 and len(said) == 1, "the behaviour has changed"
PY
