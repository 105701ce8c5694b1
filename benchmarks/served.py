"""Measure whether stock PPO learns on a served environment: `rlhf/OpenEnv-v0` against `rlhf serve-env`.

    python -m benchmarks.served --seeds 3

The server has `rlhf/TokenBandit-v0`, whose best reward is known, in a process of its own. The agent is a small fresh
model with that task's words. It writes texts, and learns from the server's rewards alone. The same PPO, with the same
settings and no server, stands below it. It needs the extra `openenv`. The seconds are the processor's.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_envs.tasks.token_bandit import CONTEXTS, TokenBandit, completion_rewards, enumerate_completions

SERVED, LOCAL = "rlhf/OpenEnv-v0", "rlhf/TokenBandit-v0"
SAMPLED = 400
SETTINGS: dict[str, Any] = {"learning_rate": 3e-3, "kl_coef": 0.02, "batch_size": 256}
BEST = float(np.mean([completion_rewards(prompt, enumerate_completions()).max() for prompt in CONTEXTS]))


@contextmanager
def server(env_id: str) -> Iterator[str]:
    """Start `rlhf serve-env`, and yield its address."""
    command = [sys.executable, "-m", "agents.cli", "serve-env", env_id, "--port", "0", "--max-sessions", "128"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise SystemExit("rlhf serve-env did not start")
            yield next(word.strip(",") for word in line.split() if word.startswith("http://"))
        finally:
            process.terminate()


def save_fresh(folder: Path, seed: int) -> str:
    """Write a small fresh model with the task's words into a folder, and return the folder."""
    import torch

    from agents.core.models import build_model

    tokenizer = TokenBandit().tokenizer(None)
    torch.manual_seed(seed)
    model = build_model(len(tokenizer), n_positions=32, n_layer=2, n_embd=64, n_head=2)
    model.config.pad_token_id, model.config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def learn(seed: int, url: str | None, tokens: int, n_envs: int = 64) -> dict[str, float]:
    """Train once, on the server at `url` or without one, and return the rewards before and after."""
    import torch

    import agents

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = save_fresh(Path(folder), seed)
        if url is None:
            env = agents.make_vec_env(LOCAL, n_envs, seed=seed)
        else:
            room = {"max_prompt_tokens": 4, "max_new_tokens": 4, "max_turns": 1}  # three words, and the end of the turn
            env = agents.make_vec_env(SERVED, n_envs, seed=seed, base_url=url, model=model, n_prompts=4, **room)
        agent = agents.make("ppo", env, seed=seed, device="cpu", policy_kwargs={"model": model}, **SETTINGS)
        rows = np.resize(np.arange(len(env.get_attr("rows", 0)[0])), SAMPLED)
        before = float(np.mean([done.reward for done in agents.generate(agent, env, indices=rows)]))
        started = os.times()
        agent.learn(tokens)
        spent = os.times()
        after = float(np.mean([done.reward for done in agents.generate(agent, env, indices=rows)]))
        env.close()
    return {"before": before, "after": after, "seconds": spent.user + spent.system - started.user - started.system}


def line(name: str, runs: list[dict[str, float]], tokens: int) -> str:
    """Return a row of the table."""
    before, after, seconds = (np.array([run[key] for run in runs]) for key in ("before", "after", "seconds"))
    cells = (name, f"{tokens:,}", f"{before.mean():.3f}", f"{after.mean():.3f} (least {after.min():.3f})")
    shares = f"{100 * after.mean() / BEST:.0f}%", f"{seconds.mean():.0f}"
    return "| " + " | ".join((*cells, *shares)) + " |"


def main() -> None:
    """Train with a server and without one, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=49152)
    args = parser.parse_args()
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    head = ("PPO on", "tokens", "reward, untrained", "reward, trained", "of the best", "CPU seconds per run")
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    with server(LOCAL) as url:
        served = [learn(seed, url, args.tokens) for seed in seeds]
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(line("the served environment", served, args.tokens))
    print(line("the environment itself", [learn(seed, None, args.tokens) for seed in seeds], args.tokens))
    print(
        f"\nThe best reward is {BEST:.3f}. The server took {own.ru_utime + own.ru_stime:.0f} s for {args.seeds} runs."
    )


if __name__ == "__main__":
    main()
