"""Measure how near algorithms come to a known optimum: `rlhf/TokenBandit-v0`, over several seeds.

`python -m benchmarks.closed_form --seeds 5` trains every algorithm of `SETTINGS` and `GREEDY` (`--algos` for some) and
prints the metrics of `agents.testing.bandit_figures`, which enumerates them: nothing is sampled.

The algorithms of `SETTINGS` maximise `E[r] - b KL` (only `awr` has another optimum). The table compares their objective
with the optimum's: as a share of it, and as the share of the way from the reference's objective to it. The algorithms
of `GREEDY` maximise the return. The table shows the return of their most probable completions as a share of the best.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

KL_COEF = 0.3


def falling(learning_rate: float) -> partial[float]:
    """Return a schedule that falls linearly to 0."""
    return partial(_times, learning_rate)


def _times(learning_rate: float, left: float) -> float:
    return learning_rate * left


class FallingTarget(BaseCallback):
    """Let the `target_kl` of a stock TRPO fall linearly to 0."""

    def _on_training_start(self) -> None:
        self.first = self.model.target_kl

    def _on_rollout_start(self) -> None:
        self.model.target_kl = self.first * max(self.model._current_progress_remaining, 0.02)

    def _on_step(self) -> bool:
        return True


# Chosen on seed 100; the seeds that are reported are 0, 1, ...
PPO = dict(tokens=200_000, learning_rate=falling(2e-3), n_steps=24, batch_size=768, n_epochs=8, vf_coef=0.5)
GROUPS = dict(n_steps=12, batch_size=384, n_epochs=4)
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": PPO,
    "maskable_ppo": PPO,
    "nlpo": PPO | dict(mask_top_p=0.6, target_update=10**9),  # a mask that moves has no closed form
    "a2c": dict(
        tokens=800_000, n_envs=256, learning_rate=falling(4e-3), n_steps=6, vf_coef=0.5, normalize_advantage=False
    ),
    "trpo": dict(
        tokens=122_880,
        learning_rate=falling(2e-3),
        n_steps=24,
        batch_size=384,
        gae_lambda=1.0,
        value="separate",
        n_critic_updates=16,
        target_kl=0.01,
        cg_max_steps=40,
        cg_damping=1e-4,
        callback=FallingTarget,
    ),
    "reinforce": dict(
        tokens=900_000,
        n_envs=128,
        learning_rate=falling(3e-3),
        n_steps=12,
        baseline="value",
        vf_coef=0.5,
        normalize_advantage=False,
    ),
    "rloo": dict(tokens=300_000, learning_rate=falling(2e-3), group_size=8, **GROUPS),
    # GRPO's own KL penalty in the loss, and its scaling of rewards, have another optimum.
    "grpo": dict(
        tokens=300_000,
        learning_rate=falling(2e-3),
        group_size=8,
        kl="reward",
        loss_type="dr_grpo",
        scale_rewards=False,
        **GROUPS,
    ),
    "online_dpo": dict(tokens=800_000, learning_rate=falling(4e-3), group_size=2, **GROUPS),
    "awr": dict(tokens=200_000, learning_rate=falling(2e-3), n_steps=24, batch_size=768, n_epochs=4),
}
Q = dict(tokens=80_000, n_envs=256, learning_rate=3e-3, train_freq=3, batch_size=1536, learning_starts=2000)
Q |= dict(gradient_steps=8, target_update_interval=1536, exploration_final_eps=0.1)
GREEDY: dict[str, dict[str, Any]] = {
    "dqn": Q,
    "qrdqn": Q,
    "ilql": dict(
        tokens=80_000,
        n_envs=256,
        learning_rate=3e-3,
        train_freq=3,
        gradient_steps=16,
        batch_size=1024,
        expectile=0.95,
        beta=30.0,
        cql_coef=0.0,
    ),
}


def train(algo: str, seed: int, device: str = "cpu", **overrides: Any) -> dict[str, float]:
    """Train once and return the metrics: `part` and `way` of the objective, `greedy` of the return, and more."""
    import torch

    import agents
    from agents.testing import bandit_figures
    from rlhf_envs.tasks.token_bandit import CONTEXTS, completion_rewards, enumerate_completions

    torch.set_num_threads(1)
    started = time.perf_counter()
    settings = (SETTINGS | GREEDY)[algo] | overrides
    tokens, n_envs, callback = settings.pop("tokens"), settings.pop("n_envs", 64), settings.pop("callback", None)
    env = agents.make_vec_env("rlhf/TokenBandit-v0", n_envs, seed=seed)
    penalty = {} if algo in GREEDY else {agents.get_algorithm(algo).kl_argument: KL_COEF}
    agent = agents.make(algo, env, seed=seed, device=device, **penalty, **settings)
    agent.learn(tokens, callback=callback() if callback else None)
    figures = bandit_figures(agent, KL_COEF)
    figures["part"] = figures["objective"] / figures["best_objective"]
    figures["way"] = (figures["objective"] - figures["start"]) / (figures["best_objective"] - figures["start"])
    best = [completion_rewards(prompt, enumerate_completions()).max() for prompt in CONTEXTS]
    mine = agents.generate(agent, env, indices=range(len(CONTEXTS)), deterministic=True)
    figures["greedy"] = float(np.mean([c.reward for c in mine])) / float(np.mean(best))
    return figures | {"seconds": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algos", default=",".join(SETTINGS | GREEDY))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    algos, seeds = args.algos.split(","), range(args.first_seed, args.first_seed + args.seeds)
    head = ("algorithm", "tokens", "objective, % of the best", "way, %", "return, % of the best", "reward", "KL", "s")
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        started = {algo: [pool.submit(train, algo, seed) for seed in seeds] for algo in algos}
        for algo, futures in started.items():
            runs = [future.result() for future in futures]
            cells = [_cell([100 * run[name] for run in runs], 1) for name in ("part", "way", "greedy")]
            if algo in GREEDY:
                cells[:2] = ["", ""]
            cells += [_cell([run[name] for run in runs], 3) for name in ("reward", "kl")]
            cells += [f"{np.mean([run['seconds'] for run in runs]):.0f}"]
            print(f"| {algo} | {(SETTINGS | GREEDY)[algo]['tokens']:,} | " + " | ".join(cells) + " |", flush=True)
    reward, kl = (np.mean([run[name] for run in runs]) for name in ("best_reward", "best_kl"))
    print(f"the optimum of the last, mean over its seeds: reward {reward:.3f}, KL {kl:.3f}")


def _cell(values: list[float], digits: int) -> str:
    """Return the mean and its standard error over the seeds."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1) / len(values) ** 0.5:.{digits}f}"


if __name__ == "__main__":
    main()
