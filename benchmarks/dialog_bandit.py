"""Measure who learns what to ask first: `rlhf/DialogBandit-v0`, whose best return is known, over several seeds.

`python -m benchmarks.dialog_bandit --seeds 5` trains every algorithm of `ALGOS` (`--algos` for some), with the settings
that `rlhf train` has for this environment (and `--lr-schedule linear` for those of `FALLING`), twice: with the
rewards of turns where they fall, and with their sum at the end of the dialog. It prints the mean return of 1,200
sampled dialogs, as a share of the best, and the tokens until the last 500 dialogs had 95% of it.
"""

from __future__ import annotations

import argparse
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from rlhf_envs.tasks.dialog_bandit import best_return

ENV, LATE = "rlhf/DialogBandit-v0", "rlhf_envs.tasks.dialog_bandit:LateDialogBandit"
ALGOS = ("ppo", "a2c", "reinforce", "rloo", "grpo")
FALLING = ("reinforce",)  # at a constant learning rate it falls again from the best return
BEST = float(np.mean([best for best, _ in best_return().values()]))
DIALOGS, SAMPLED, ENOUGH = 500, 1200, 0.95


class Reached(BaseCallback):
    """Note the tokens after which the mean return of the last dialogs was first high enough."""

    def __init__(self) -> None:
        super().__init__()
        self.returns: deque[float] = deque(maxlen=DIALOGS)
        self.tokens: float = np.nan

    def _on_step(self) -> bool:
        self.returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        if np.isnan(self.tokens) and len(self.returns) == DIALOGS and np.mean(self.returns) >= ENOUGH * BEST:
            self.tokens = self.num_timesteps
        return True


def train(algo: str, late: bool, seed: int, n_timesteps: int | None = None) -> dict[str, float]:
    """Train once and return the share of the best return, and the tokens until 95% of it were reached."""
    import torch

    import agents
    from agents.core.schedules import falling_rate
    from agents.training.hyperparams import default_hyperparams

    torch.set_num_threads(1)
    settings = default_hyperparams(ENV, algo)
    tokens, n_envs = settings.pop("n_timesteps"), settings.pop("n_envs")
    if algo in FALLING:
        settings["learning_rate"] = falling_rate("linear", settings["learning_rate"])
    task: dict[str, Any] = {"task": LATE} if late else {}
    env = agents.make_vec_env(ENV, n_envs, seed=seed, score="step", **task)
    agent = agents.make(algo, env, seed=seed, device="cpu", **settings)
    reached = Reached()
    agent.learn(tokens if n_timesteps is None else n_timesteps, callback=reached)
    rows = np.resize(np.arange(len(env.get_attr("rows", 0)[0])), SAMPLED)
    mine = np.mean([done.reward for done in agents.generate(agent, env, indices=rows)])
    return {"share": float(mine) / BEST, "reached": reached.tokens, "tokens": tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algos", default=",".join(ALGOS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    head = ("algorithm", "rewards", "tokens", "return, % of the best", "tokens to 95%", "seeds that reach it")
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        for algo in args.algos.split(","):
            started = {late: [pool.submit(train, algo, late, seed) for seed in seeds] for late in (False, True)}
            for late, futures in started.items():
                print(_line(algo, late, [future.result() for future in futures]), flush=True)


def _line(algo: str, late: bool, runs: list[dict[str, float]]) -> str:
    """Return a line of the table: means over the seeds, and the least share."""
    shares, counts = ([run[name] for run in runs] for name in ("share", "reached"))
    reached = [count for count in counts if not np.isnan(count)]
    cells = [algo, "at the end" if late else "by turn", f"{runs[0]['tokens']:,.0f}"]
    cells += [f"{100 * np.mean(shares):.1f} (least {100 * min(shares):.1f})"]
    cells += [f"{np.mean(reached):,.0f}" if reached else "-", f"{len(reached)} of {len(runs)}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
