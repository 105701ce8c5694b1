"""Time dialogs and group rollouts through the KV cache: the policy alone, random weights in SmolLM2-135M's shape.

    git worktree add ../before COMMIT
    python -m benchmarks.dialogs --before ../before

Five rollouts of 8 rows take turns in one process, with another checkout's process beside it if one is named:

- `completion`: after a prompt of 16 tokens, 256 are written;
- `dialog`: 8 turns, each with 16 tokens of a user and 16 of the agent;
- `staggered`: the same, but the turns of each row end at a step of their own, so that every second step has a reply;
- `group`: 32 tokens after a prompt of 256, the same for all rows; then the value of the next prompt, as in SB3;
- `no group`: the same after 8 different prompts.

There is no environment. The KL to the reference, which costs the same with a group and without, is timed apart. The
seconds are the processor's, on one thread, so that other work on the machine matters little. `--blocks 5` takes a sixth
of the model: 5 of its 30 blocks and a sixth of its vocabulary, with the same widths.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Rollouts", "Sizes", "main"]

ROLLOUTS = ("completion", "dialog", "staggered", "group", "no group")
MAX_DIALOG, MIN_GROUP = 1.25, 1.5


@dataclass(frozen=True)
class Sizes:
    """Hold the sizes of the model and of its rollouts.

    Args:
        turn: tokens of a user's turn, and of the agent's.
        prompt, new: tokens of a group's prompt and of its completions.
    """

    blocks: int = 30
    rows: int = 8
    turns: int = 8
    turn: int = 16
    prompt: int = 256
    new: int = 32

    @property
    def length(self) -> int:
        """Return the length of the longest context."""
        return max((2 * self.turns + 1) * self.turn, self.prompt + self.new)

    def tokens(self, name: str) -> int:
        """Return how many tokens a row of a rollout reads and writes; a completion's prompt does not count."""
        return 2 * self.turns * self.turn if name in ROLLOUTS[:3] else self.prompt + self.new


TOY = Sizes(blocks=1, rows=2, turns=2, turn=3, prompt=8, new=2)


class Rollouts:
    """Hold a policy and time its rollouts. Only what any checkout has is imported."""

    def __init__(self, sizes: Sizes) -> None:
        import numpy as np
        import torch
        from gymnasium import spaces
        from transformers import LlamaConfig, LlamaForCausalLM

        from agents import TokenPolicy

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.sizes, self.vocab_size = sizes, 49152 * sizes.blocks // 30
        shape: dict[str, Any] = dict(
            hidden_size=576, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536
        )
        sized: dict[str, Any] = dict(
            vocab_size=self.vocab_size, num_hidden_layers=sizes.blocks, tie_word_embeddings=True
        )
        ids = spaces.Box(0, self.vocab_size - 1, (sizes.length,), np.int64)
        observation = spaces.Dict(input_ids=ids, attention_mask=spaces.Box(0, 1, (sizes.length,), np.int8))
        model = LlamaForCausalLM(LlamaConfig(**shape, **sized))
        self.policy: Any = TokenPolicy(observation, spaces.Discrete(self.vocab_size), lambda _: 0.0, model=model)

    def time(self, name: str) -> dict[str, float]:
        """Return the processor's seconds for a rollout and, of a group, for the KL to the reference."""
        import torch

        sizes = self.sizes
        self.policy.set_training_mode(True)  # as after an update
        start = time.process_time()
        with torch.no_grad():
            if name == "completion":
                self._write(self._texts(), sizes.turn, 2 * sizes.turns * sizes.turn)
            elif name in ("dialog", "staggered"):
                self._write(self._texts(), sizes.turn, sizes.turns * sizes.turn, name)
            else:
                texts = self._texts(name)
                self._write(texts, sizes.prompt, sizes.new)
                self.policy.predict_values(self._observation(self._texts(name), sizes.prompt))
        end = time.process_time()
        if "group" not in name:
            return {"rollout": end - start}
        columns = torch.arange(sizes.prompt - 1, sizes.prompt + sizes.new - 1).repeat(sizes.rows)
        rows = torch.arange(sizes.rows).repeat_interleave(sizes.new)
        sequences = self._observation(texts, sizes.prompt + sizes.new) | {"rows": rows, "columns": columns}
        self.policy.reference_log_prob(sequences, texts[rows, columns + 1])
        return {"rollout": end - start, "reference": time.process_time() - end}

    def _texts(self, name: str = "") -> Any:
        import torch

        ids = torch.randint(self.vocab_size, (self.sizes.rows, self.sizes.length))
        return ids[:1].repeat(len(ids), 1) if name == "group" else ids

    def _observation(self, ids: Any, lengths: Any) -> dict[str, Any]:
        import torch

        mask = torch.arange(ids.shape[1]) < torch.as_tensor(lengths).reshape(-1, 1)
        return {"input_ids": ids, "attention_mask": mask.expand(ids.shape).long()}

    def _write(self, ids: Any, prompt: int, steps: int, replies: str = "") -> None:
        """Let the policy write into the texts behind a prompt; a reply is the text that stands there already."""
        import torch

        rows, turn = torch.arange(len(ids)), self.sizes.turn
        lengths, done = torch.full_like(rows, prompt), torch.zeros_like(rows)
        if replies == "staggered":
            done += rows * turn // len(rows)  # of their first turns
        for _ in range(steps):
            ids[rows, lengths] = self.policy(self._observation(ids, lengths))[0]
            lengths, done = lengths + 1, done + 1
            if replies:
                lengths = lengths + turn * (done % turn == 0)


def serve(sizes: Sizes) -> None:
    """Answer each line of the input, the name of a rollout, with a line: the seconds it took, as JSON."""
    rollouts = Rollouts(sizes)
    for line in sys.stdin:
        print(json.dumps(rollouts.time(line.strip())), flush=True)


class Build:
    """Run rollouts with a checkout's code, in a process of its own."""

    def __init__(self, checkout: Path, sizes: Sizes) -> None:
        env = os.environ | {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-P", __file__, "--serve", json.dumps(asdict(sizes))]
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def time(self, name: str) -> dict[str, float]:
        """Return what `Rollouts.time` returns.

        Raises:
            RuntimeError: the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"the process of {name!r} ended with exit code {self._process.wait()}")
        return dict(json.loads(line))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def report(taken: dict[str, dict[str, list[dict[str, float]]]], sizes: Sizes) -> None:
    """Print the medians of all rollouts, by build and name, and the ratios of rollouts of the same turn."""
    print("\n| build | rollout | s of CPU | ms per token | KL to the reference, s |\n|---|---|---|---|---|")
    for build, rollouts in taken.items():
        for name, runs in rollouts.items():
            seconds = statistics.median(run["rollout"] for run in runs)
            reference = f"{statistics.median(run['reference'] for run in runs):.2f}" if "reference" in runs[0] else ""
            per_token = 1e3 * seconds / sizes.rows / sizes.tokens(name)
            print(f"| {build} | {name} | {seconds:.2f} | {per_token:.2f} | {reference} |")
    for build, rollouts in taken.items():

        def ratio(name: str, other: str, *parts: str, rollouts: Any = rollouts) -> str:
            pairs = zip(rollouts[name], rollouts[other], strict=True)
            ratios = [sum(a[part] for part in parts) / sum(b[part] for part in parts) for a, b in pairs]
            return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"

        print(f"\n{build}:")
        for name in ("dialog", "staggered"):
            print(f"- {name} / completion, time per token: {ratio(name, 'completion', 'rollout')}")
        print(f"- no group / group, time: {ratio('no group', 'group', 'rollout')}")
        print(f"- the same, with the KL to the reference: {ratio('no group', 'group', 'rollout', 'reference')}")
    print(f"\n(asked of the new build: dialogs at most {MAX_DIALOG}, groups at least {MIN_GROUP})")


def main(arguments: Sequence[str] | None = None) -> None:
    """Let builds and rollouts take turns, and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout, to run beside this one")
    parser.add_argument("--blocks", type=int, default=Sizes.blocks)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--toy", action="store_true", help="tiny sizes, only to see that it runs")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.serve:
        serve(Sizes(**json.loads(args.serve)))
        return
    sizes = TOY if args.toy else Sizes(blocks=args.blocks)
    checkouts = {"before": args.before} if args.before else {}
    builds = {n: Build(p, sizes) for n, p in {**checkouts, "new": Path(__file__).parent.parent}.items()}
    taken: dict[str, dict[str, list[dict[str, float]]]] = {n: {name: [] for name in ROLLOUTS} for n in builds}
    print(f"{sizes}, one thread, medians of {args.repeats}", flush=True)
    try:
        for build in builds.values():
            build.time("group")  # a first pass costs more
        for _ in range(args.repeats):
            for name in ROLLOUTS:
                for n, build in builds.items():
                    taken[n][name].append(build.time(name))
    finally:
        for build in builds.values():
            build.close()
    report(taken, sizes)


if __name__ == "__main__":
    main()
