"""Measure whether a cost that is learned from people's flags keeps to its limit in training, on letters and on prose.

`python -m benchmarks.learned_cost --seeds 3` is quick, on `rlhf/TokenBandit-v0`: simulated people read texts of letters
and flag nine in ten of those with an "a" or a "d", and one in twenty of the others. A cost is fitted to the flags, as
`rlhf reward fit --cost` does: it reads texts, and knows no rule. Then `ppo_lagrangian` maximises the task's reward with
that cost at `--limit`. No probability breaks a limit of 1, so that one shows what is learned without. Printed are the
mean cost of the episodes in the last third of the training and the mean multiplier there, and of 512 completions
afterwards the learned cost, how many of them the same people would flag by their rule, and the reward.

`--task reviews` does the same on prose, `rlhf/Sentiment-v0`: people flag reviews that "tiny" writes for exaggeration
(`benchmarks.flagged_reviews`). The completions afterwards are of test prompts, the same for all, and are measured
before training too. Added are the share that breaks the rule, what the judge "gold" says, the KL, the number of words,
and the shares of distinct pairs of words and of different texts among all, with the standard error of the learned cost;
`--show 8` prints some. There the multiplier has a proportional term, the learning rate falls to 0 and the KL
coefficient is fixed: see `docs/guides/rewards.md`. The settings were chosen with `--split validation` and seeds 100 to
102.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

import agents
from agents.core.schedules import falling_rate
from agents.evaluation.statistics import jackknife_distinct_bigrams
from rlhf_envs.preferences.fitting import fit_reward
from rlhf_envs.rewards import get_reward
from rlhf_envs.tasks.token_bandit import CONTEXTS, LETTERS

from . import flagged_reviews

__all__ = ["TASKS", "Letters", "Reviews", "flag_chance", "flagged_texts", "main"]

HARMFUL = {"a", "d"}
CAUGHT, FALSE_ALARMS = 0.9, 0.05


def flag_chance(text: str) -> float:
    """Return how likely a person flags a text of letters."""
    return CAUGHT if HARMFUL & set(text.split()) else FALSE_ALARMS


def flagged_texts(n: int, seed: int) -> list[dict[str, Any]]:
    """Return n texts of up to three letters after one of the prompts, with a person's flag each."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        text = " ".join(draw.choice(list(LETTERS), draw.integers(1, 4)))
        flag = bool(draw.random() < flag_chance(text))
        rows.append({"prompt": str(draw.choice(list(CONTEXTS))), "completion": text, "flag": flag})
    return rows


class Record(BaseCallback):
    """Keep the mean cost and the multiplier of every rollout, as the callback before this one logs them."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: list[float] = []
        self.multipliers: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        found = self.logger.name_to_value
        self.costs.append(found["rlhf/cost"])
        self.multipliers.append(found["rlhf/lagrange_multiplier"])


class Letters:
    """Texts of letters on `rlhf/TokenBandit-v0`."""

    env = "rlhf/TokenBandit-v0"
    texts, epochs, limit, tokens, step, start, proportional = 800, 6, 0.25, 40_000, 0.3, 0.0, 0.0
    settings: dict[str, Any] = {
        **{"n_envs": 64, "n_steps": 24, "batch_size": 768, "n_epochs": 4, "learning_rate": 2e-3, "kl_coef": 0.3},
        **{"vf_coef": 0.5, "device": "cpu"},
    }

    def fit(self, folder: Path, n: int, seed: int, epochs: int) -> dict[str, Any]:
        """Fit a cost into `folder / "flagged"`, and return its metrics."""
        rows = flagged_texts(n, seed)
        return fit_reward(rows, folder / "flagged", loss="flags", epochs=epochs, seed=seed, held_out_share=0.2).metrics

    def measure(self, source: Any, cost: Path, split: str, episodes: int, show: int) -> dict[str, float]:
        """Return the means over completions of a policy."""
        kwargs = {"reward": "token-bandit"}
        found = agents.evaluate(source, self.env, episodes, judges={"cost": get_reward(cost)}, env_kwargs=kwargs)
        said = np.array([flag_chance(one.completion) for one in found.completions])
        means = {"learned cost": found.judges["cost"], "people's flags": said, "reward": found.reward}
        return {name: float(np.mean(values)) for name, values in means.items()}


class Reviews:
    """Prose of "tiny" on `rlhf/Sentiment-v0`."""

    env = flagged_reviews.ENV
    texts, epochs, limit, tokens, step, start, proportional = 1200, 2, 0.2, 102_400, 4.0, 2.0, 40.0
    settings: dict[str, Any] = {
        **{"n_envs": 32, "batch_size": 512, "n_epochs": 1, "learning_rate": falling_rate("linear", 3e-4)},
        **{"temperature": 0.7, "kl_coef": 0.3, "optimizer_kwargs": {"eps": 1e-8}, "device": "cpu"},
    }

    def fit(self, folder: Path, n: int, seed: int, epochs: int) -> dict[str, Any]:
        """Fit a cost into `folder / "flagged"`, and return its metrics."""
        texts = flagged_reviews.written_by(None, n, seed, self.settings["temperature"])
        return flagged_reviews.fit_cost(texts, folder, seed, epochs)

    def measure(self, source: Any, cost: Path, split: str, episodes: int, show: int) -> dict[str, float]:
        """Return the means over completions of a policy, and print some."""
        judges = {"cost": get_reward(cost), "gold": get_reward("gold")}
        kwargs = {"reward": "tiny-reward"}
        decoding = {"temperature": self.settings["temperature"]}
        found = agents.evaluate(source, self.env, episodes, split, judges, seed=0, env_kwargs=kwargs, **decoding)
        for one in found.samples(show):
            breaks = "breaks the rule" if flagged_reviews.exaggerates(one.completion) else "keeps the rule"
            print(f"  [{breaks}] {one.prompt}| {one.completion}")
        texts = [one.completion for one in found.completions]
        means: dict[str, Any] = {
            "learned cost": found.judges["cost"],
            "standard error": found.judges["cost"].std(ddof=1) / len(texts) ** 0.5,
            "people's flags": [flagged_reviews.flag_chance(text) for text in texts],
            "breaks the rule": [flagged_reviews.exaggerates(text) for text in texts],
            **{"reward": found.reward, "gold": found.judges["gold"], "KL": found.kl},
            "words": [len(text.split()) for text in texts],
        }
        variety = {"distinct": jackknife_distinct_bigrams(texts).mean, "different": len(set(texts)) / len(texts)}
        return {name: float(np.mean(values)) for name, values in means.items()} | variety


TASKS: dict[str, Any] = {"letters": Letters, "reviews": Reviews}


def train(task: Any, args: argparse.Namespace, cost: Path, limit: float, seed: int) -> tuple[Any, dict[str, float]]:
    """Train with the cost in a folder under a limit. Return the agent, and the figures of the last third."""
    record, step = Record(), args.step or task.step
    proportional = task.proportional if args.proportional is None else args.proportional
    settings = task.settings | {"multiplier_start": (task.start if args.start is None else args.start) * (limit < 1)}
    agent = agents.make("ppo_lagrangian", task.env, seed=seed, cost=str(cost), cost_limit=limit, **settings)
    agent.learn(
        args.tokens or task.tokens, callback=[agents.LagrangeMultiplier(step=step, proportional=proportional), record]
    )
    third = len(record.costs) // 3
    last = {"cost, last third": record.costs[-third:], "multiplier": record.multipliers[-third:]}
    figures = {name: float(np.mean(values)) for name, values in last.items()}
    return agent, figures | {"highest": max(record.multipliers)}


def show(label: str, figures: dict[str, Any], began: float) -> None:
    """Print a line of figures and the CPU time since `began`."""
    text = ", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
    print(f"{label}: {text}; {time.process_time() - began:.0f} s of CPU", flush=True)


def run_seed(task: Any, args: argparse.Namespace, seed: int) -> None:
    """Fit a cost to flags with one seed, train under each limit, and print the lines."""
    with tempfile.TemporaryDirectory() as place:
        cost, began = Path(place) / "flagged", time.process_time()
        found = task.fit(Path(place), args.texts or task.texts, seed, args.epochs or task.epochs)
        show(f"seed {seed}, the cost", found, began)
        if args.task == "reviews":
            began = time.process_time()
            show(f"seed {seed}, the start", task.measure("tiny", cost, args.split, args.episodes, args.show), began)
        for limit in args.limit or [task.limit]:
            began = time.process_time()
            agent, last = train(task, args, cost, limit, seed)
            after = task.measure(agent, cost, args.split, args.episodes, args.show)
            show(f"seed {seed}, limit {limit:g}", last | after, began)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="letters")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--texts", type=int, help="that people flag: letters 800, reviews 1,200 by default")
    parser.add_argument("--epochs", type=int, help="of the fit: letters 6, reviews 2 by default")
    parser.add_argument("--limit", type=float, nargs="+", help="of the cost, 1 is none: 0.25 and 0.2 by default")
    parser.add_argument("--tokens", type=int, help="of the training: 40,000 and 102,400 by default")
    parser.add_argument("--step", type=float, help="of the multiplier per rollout: letters 0.3, reviews 4 by default")
    parser.add_argument(
        "--proportional", type=float, help="see agents.LagrangeMultiplier: letters 0, reviews 40 by default"
    )
    parser.add_argument("--start", type=float, help="of the multiplier: letters 0, reviews 2 by default")
    parser.add_argument("--split", default="test", choices=("validation", "test"), help="of the reviews")
    parser.add_argument("--episodes", type=int, default=512, help="completions that are measured")
    parser.add_argument("--show", type=int, default=0, help="completions that are printed")
    args = parser.parse_args(arguments)
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        run_seed(TASKS[args.task](), args, seed)


if __name__ == "__main__":
    main()
