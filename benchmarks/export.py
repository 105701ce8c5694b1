"""Measure exports: size, perplexity and the judge before and after, for each format and number of bits.

`python -m benchmarks.export --models tiny,smollm2 -n 64` prints the table. With `--llama-cpp` it prints instead how the
models' GGUF files agree with transformers when llama.cpp itself reads them (pip install llama-cpp-python).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from transformers.utils import logging

import agents
from benchmarks.llama_cpp_check import print_table

# As `rlhf export --to ... --quantize ... --prune ...`.
PLANS: dict[str, dict[str, object]] = {
    "merged": {"to": "merged"},
    "merged, float16": {"to": "merged", "quantize": "float16"},
    "merged, int8": {"to": "merged", "quantize": "int8"},
    "merged, int4": {"to": "merged", "quantize": "int4"},
    "gguf, float16": {"to": "gguf", "quantize": "float16"},
    "gguf, int8": {"to": "gguf", "quantize": "int8"},
    "gguf, int4": {"to": "gguf", "quantize": "int4"},
    "onnx": {"to": "onnx"},
    "onnx, int8": {"to": "onnx", "quantize": "int8"},
    "onnx, int4": {"to": "onnx", "quantize": "int4"},
    "merged, 0.3 pruned": {"to": "merged", "prune_share": 0.3},
    "merged, 2:4 pruned": {"to": "merged", "prune_pattern": "2:4"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="tiny,smollm2", help="names or folders, with commas between")
    parser.add_argument("--plans", default=",,".join(PLANS), help="which of the plans, with two commas between")
    parser.add_argument("-n", type=int, default=64, help="held-out prompts")
    parser.add_argument("--llama-cpp", action="store_true", help="read the GGUF files in llama.cpp, and compare")
    given = parser.parse_args()
    logging.disable_progress_bar()
    if given.llama_cpp:
        print_table(given.models.split(","))
        return
    titles = ("model", "export", "size", "perplexity", "same completions", "reward", "judge", "s of CPU")
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for model in given.models.split(","):
        for name in given.plans.split(",,"):
            with tempfile.TemporaryDirectory() as folder:
                started = time.process_time()
                done = agents.export(model, Path(folder) / "out", n_episodes=given.n, **PLANS[name])  # type: ignore[arg-type]
                spent = time.process_time() - started
            rows = {row[0]: row for row in done.rows}
            perplexity, reward, gold = rows["perplexity"], rows["reward"], rows["gold"]
            print(
                f"| {model} | {name} | {rows['size of the weights'][3]} | {perplexity[1]} to {perplexity[2]} "
                f"({perplexity[3]}) | {rows['same completions'][3]} | {reward[3]} | {gold[3]} | {spent:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
