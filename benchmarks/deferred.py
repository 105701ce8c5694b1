"""Score a rollout in one reward call and in every step: how many calls, the same scores, and the time of slow rewards.

    python -m benchmarks.deferred
    git worktree add ../before COMMIT
    python -m benchmarks.deferred --old ../before --pairs 3

Both arms are stock PPO with one seed on `rlhf/Sentiment-v0`, without a KL penalty, so the rewards in the buffer are
the scores. The reward is "tiny-reward". For the times each of its calls also sleeps, as one to an API would. The last
of some rollouts is measured, when the environments no longer end together.

With `--old` the first arm is another checkout, as it scores by default. Each arm then has a process of its own for each
pair, and they take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import PPO

from agents import SequenceRolloutBuffer, TokenPolicy, make_vec_env
from rlhf_envs.rewards import get_reward

__all__ = ["Rollout", "collect", "main"]

ROLLOUTS = 4  # at first all episodes end together


@dataclass
class Rollout:
    """Hold what a rollout took: seconds, the texts of each reward call, and the scores `(n_steps, n_envs)`."""

    seconds: float
    calls: list[int]
    scores: np.ndarray


def collect(score: str | None, n_envs: int, new_tokens: int, seconds_per_call: float) -> Rollout:
    """Collect some rollouts and return the last; the reward sleeps in that one alone. None scores by default."""
    reward, calls, pause = get_reward("tiny-reward"), list[int](), 0.0

    def slow(prompts: Any, completions: Any, **columns: Any) -> Any:
        calls.append(len(prompts))
        time.sleep(pause)
        return reward(prompts, completions)

    options: dict[str, Any] = {} if score is None else {"score": score}  # an older commit has no such argument
    env = make_vec_env(
        "rlhf/Sentiment-v0", n_envs, seed=0, reward_fn=slow, max_new_tokens=new_tokens, model="tiny", **options
    )
    agent = PPO(
        TokenPolicy,
        env,
        n_steps=new_tokens,
        batch_size=n_envs * new_tokens,
        rollout_buffer_class=SequenceRolloutBuffer,
        rollout_buffer_kwargs={"kl_coef": 0.0},
        policy_kwargs={"model": "tiny"},
        seed=0,
    )
    _, callback = agent._setup_learn(ROLLOUTS * n_envs * new_tokens)
    for i in range(ROLLOUTS):
        calls.clear()
        pause = seconds_per_call if i == ROLLOUTS - 1 else 0.0
        started = time.perf_counter()
        agent.collect_rollouts(env, callback, agent.rollout_buffer, new_tokens)
        seconds = time.perf_counter() - started
    return Rollout(seconds, calls, agent.rollout_buffer.rewards.copy())


def collect_in(checkout: Path, score: str | None, *sizes: float) -> Rollout:
    """Do what `collect` does in a process of its own, with the packages of a checkout."""
    env = os.environ | {"PYTHONPATH": str(checkout.resolve()), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--one", json.dumps([score, *sizes])]
    done = subprocess.run(command, cwd=checkout, env=env, check=True, stdout=subprocess.PIPE, text=True)
    seconds, calls, scores = json.loads(done.stdout.splitlines()[-1])
    return Rollout(seconds, calls, np.array(scores))


def compare(old: Path, pairs: int, *sizes: float) -> None:
    """Print the times of another checkout and of this one, pair by pair."""
    print("| pair | old, s (reward calls) | this, s (reward calls) | ratio |\n|---|---|---|---|")
    ratios = []
    arms = {"old": (old, None), "this": (Path(__file__).resolve().parents[1], "rollout")}
    for pair in range(pairs):
        names = [*arms] if pair % 2 == 0 else [*arms][::-1]
        found = {name: collect_in(*arms[name], *sizes) for name in names}
        ratios.append(found["this"].seconds / found["old"].seconds)
        cells = [f"{found[name].seconds:.2f} ({len(found[name].calls)})" for name in arms]
        print(f"| {pair + 1} | {' | '.join(cells)} | {ratios[-1]:.2f} |", flush=True)
    print(f"\ntime of a rollout: {statistics.median(ratios):.2f} of the old one's (asked: at most 0.2)")


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-envs", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--sleep", type=float, default=0.2, help="seconds that a reward call sleeps")
    parser.add_argument("--old", type=Path, help="a checkout to compare with")
    parser.add_argument("--pairs", type=int, default=1, help="how often the two are compared")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.one:
        one = collect(*args.one)
        print(json.dumps([one.seconds, one.calls, one.scores.tolist()]))
        return
    sizes = (args.n_envs, args.new_tokens, args.sleep)
    print(f"{args.n_envs} environments x {args.new_tokens} tokens, a reward call sleeps {args.sleep:g} s\n", flush=True)
    if args.old:
        compare(args.old, args.pairs, *sizes)
        return
    found = {score: collect(score, *sizes) for score in ("step", "rollout")}
    print("| scored | reward calls | texts per call, median | seconds of the rollout |\n|---|---|---|---|")
    for score, rollout in found.items():
        print(f"| {score} | {len(rollout.calls)} | {np.median(rollout.calls):g} | {rollout.seconds:.2f} |")
    step, once = found["step"], found["rollout"]
    difference = float(np.abs(step.scores - once.scores).max())
    print(f"\nreward calls: {len(once.calls)} (asked: at most 2)")
    print(f"largest difference of a score: {difference:.1g} (asked: at most 1e-5)")
    print(f"time of a rollout: {once.seconds / step.seconds:.2f} of the other's (asked: at most 0.2)")


if __name__ == "__main__":
    main()
