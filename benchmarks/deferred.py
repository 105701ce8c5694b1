"""Score a rollout in one reward call and in every step: how many calls, the same scores, and the time of slow rewards.

    python -m benchmarks.deferred

Both arms are stock PPO with one seed on `rlhf/Sentiment-v0`, without a KL penalty, so the rewards in the buffer are
the scores. The reward is "tiny-reward". For the times each of its calls also sleeps, as one to an API would. The last
of some rollouts is measured, when the environments no longer end together.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
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


def collect(score: Any, n_envs: int, new_tokens: int, seconds_per_call: float) -> Rollout:
    """Collect some rollouts and return the last; the reward sleeps in that one alone."""
    reward, calls, pause = get_reward("tiny-reward"), list[int](), 0.0

    def slow(prompts: Any, completions: Any, **columns: Any) -> Any:
        calls.append(len(prompts))
        time.sleep(pause)
        return reward(prompts, completions)

    env = make_vec_env(
        "rlhf/Sentiment-v0", n_envs, seed=0, score=score, reward_fn=slow, max_new_tokens=new_tokens, model="tiny"
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


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-envs", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--sleep", type=float, default=0.2, help="seconds that a reward call sleeps")
    args = parser.parse_args(arguments)
    found = {score: collect(score, args.n_envs, args.new_tokens, args.sleep) for score in ("step", "rollout")}
    print(f"{args.n_envs} environments x {args.new_tokens} tokens, a reward call sleeps {args.sleep:g} s\n")
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
