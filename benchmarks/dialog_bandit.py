"""Measure who learns what to ask first: `rlhf/DialogBandit-v0`, whose best return is 1, over several seeds.

`python -m benchmarks.dialog_bandit --seeds 5` trains every algorithm of `SETTINGS` (`--algos` for some) twice: with the
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

LATE = "rlhf_envs.tasks.dialog_bandit:LateDialogBandit"
N_ENVS, DIALOGS, ENOUGH = 64, 500, 0.95
GROUPS = dict(n_steps=20, batch_size=640, n_epochs=4, group_size=4, learning_rate=2e-3)
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": dict(n_steps=20, batch_size=640, n_epochs=8, learning_rate=2e-3, vf_coef=0.5, ent_coef=0.02),
    "a2c": dict(n_steps=10, learning_rate=2e-3, vf_coef=0.5, ent_coef=0.02),
    "reinforce": dict(n_steps=20, learning_rate=2e-3, ent_coef=0.02),
    "rloo": GROUPS | dict(ent_coef=0.02),
    "grpo": GROUPS | dict(ent_coef=0.02),
}
BY_TURN = ("reinforce", "rloo", "grpo")  # the others have returns from each token on


class Reached(BaseCallback):
    """Note the tokens after which the mean return of the last dialogs was first high enough."""

    def __init__(self) -> None:
        super().__init__()
        self.returns: deque[float] = deque(maxlen=DIALOGS)
        self.tokens: float = np.nan

    def _on_step(self) -> bool:
        self.returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        if np.isnan(self.tokens) and len(self.returns) == DIALOGS and np.mean(self.returns) >= ENOUGH:
            self.tokens = self.num_timesteps
        return True


def train(algo: str, late: bool, seed: int, tokens: int) -> dict[str, float]:
    """Train once and return the share of the best return, and the tokens until 95% of it were reached."""
    import torch

    import agents
    from rlhf_envs.tasks.dialog_bandit import best_return

    torch.set_num_threads(1)
    env = agents.make_vec_env(
        "rlhf/DialogBandit-v0", N_ENVS, seed=seed, score="step", **({"task": LATE} if late else {})
    )
    settings = {**SETTINGS[algo], agents.get_algorithm(algo).kl_argument: 0.0}
    if algo in BY_TURN and not late:
        settings["credit"] = "turn"
    agent = agents.make(algo, env, seed=seed, device="cpu", **settings)
    reached = Reached()
    agent.learn(tokens, callback=reached)
    rows = np.resize(np.arange(len(env.get_attr("rows", 0)[0])), 1200)
    mine = np.mean([done.reward for done in agents.generate(agent, env, indices=rows)])
    return {"share": float(mine / np.mean([best for best, _ in best_return().values()])), "tokens": reached.tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algos", default=",".join(SETTINGS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    print(
        "| algorithm | rewards | return, % of the best | tokens to 95% | seeds that reach it |\n|---|---|---|---|---|"
    )
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        for algo in args.algos.split(","):
            started = {
                late: [pool.submit(train, algo, late, seed, args.tokens) for seed in range(args.seeds)]
                for late in (False, True)
            }
            for late, futures in started.items():
                print(_line(algo, late, [future.result() for future in futures]), flush=True)


def _line(algo: str, late: bool, runs: list[dict[str, float]]) -> str:
    """Return a line of the table: means over the seeds, and the least share."""
    shares, tokens = ([run[name] for run in runs] for name in ("share", "tokens"))
    reached = [count for count in tokens if not np.isnan(count)]
    cells = [algo, "at the end" if late else "by turn", f"{100 * np.mean(shares):.1f} (least {100 * min(shares):.1f})"]
    cells += [f"{np.mean(reached):,.0f}" if reached else "-", f"{len(reached)} of {len(runs)}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
