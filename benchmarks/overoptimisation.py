"""Show reward hacking and stop it: proxy and gold score against KL, in the manner of Gao et al. 2022.

`python -m benchmarks.overoptimisation --folder runs/overoptimisation --docs docs/guides` fits two proxies to the same
few hundred comparisons of film snippets by people's ratings, one reward model and the pessimistic end of an ensemble
(mean minus k standard deviations), and optimises both, by PPO without a KL penalty and by best-of-n.
Every finished step is kept in the folder, one file per seed and step: the same command continues where it was stopped.

Departures from the paper (https://arxiv.org/abs/2210.10760): gold is a small judge of film reviews that learned from
other labels, not the one that made the comparisons, which are people's; proxies are a few million parameters, so the
turn comes within tens of nats; scores stand as they are (the proxy's in its standard deviations over human reviews,
gold's as a probability) and are not fitted to a curve. Best-of-n is the unbiased estimate from a pool of samples, its
KL the upper bound log n - (n - 1)/n (Beirami et al. 2024, https://arxiv.org/abs/2401.01879).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from agents import evaluate, generate, make, make_vec_env
from agents.evaluation.generate import held_out_indices
from rlhf_envs.datasets import load_rows
from rlhf_envs.files import atomic_folder, replace_file
from rlhf_envs.models import no_progress_bars
from rlhf_envs.preferences import fit_bradley_terry, fit_ensemble, load_backbone, normalise
from rlhf_envs.rewards import Reward, get_reward
from rlhf_envs.rewards.pessimism import Pessimistic

from .overoptimisation_report import INTRODUCTION, KINDS, draw, report

ENV = "rlhf/Sentiment-v0"
N_REFERENCES = 400  # human reviews over which a proxy has mean 0 and standard deviation 1
FIT = dict(epochs=4, learning_rate=3e-4)
PPO = dict(batch_size=512, temperature=0.7, kl_coef=0.0)
Point = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """Hold the settings of the results in a folder."""

    pairs: int = 200
    held_out: int = 300
    members: int = 5
    k: float = 1.0
    tokens: int = 32768
    every: int = 4096
    learning_rate: float = 5e-4
    n_envs: int = 64
    episodes: int = 96
    prompts: int = 24
    pool: int = 96
    patience: int = 3


def comparisons(split: str, n: int, generator: random.Random) -> list[dict[str, Any]]:
    """Draw pairs of snippets whose mean ratings by 20 people are more than 1 apart."""
    rows, pairs = load_rows("rated_snippets", split, required=("text",)), []
    while len(pairs) < n:
        worse, better = sorted(generator.sample(rows, 2), key=lambda row: row["mean"])
        if better["mean"] - worse["mean"] > 1:
            pairs.append({"chosen": better["text"], "rejected": worse["text"]})
    return pairs


def fit_proxies(settings: Settings, seed: int, folder: Path) -> None:
    """Fit both proxies to the same comparisons and save them, with their held-out accuracies."""
    generator = random.Random(seed)
    held_out = comparisons("test", settings.held_out, generator)
    pairs = comparisons("train", settings.pairs, generator)
    references = [row["prompt"] + row["reference"] for row in load_rows("sentiment", "validation")[:N_REFERENCES]]
    model, tokenizer = load_backbone("tiny", seed)
    single = fit_bradley_terry(model, tokenizer, pairs, held_out, seed=seed, **FIT)  # type: ignore[arg-type]
    normalise(model, tokenizer, references)
    ensemble = fit_ensemble(
        "tiny",
        pairs,
        held_out,
        members=settings.members,
        shared_trunk=False,
        references=references,
        seed=seed,
        **FIT,  # type: ignore[arg-type]
    )
    with atomic_folder(folder) as unfinished, no_progress_bars():
        model.save_pretrained(unfinished / "single")
        tokenizer.save_pretrained(unfinished / "single")
        ensemble.save_pretrained(unfinished / "ensemble")
        accuracy = {"single": single.accuracy, "pessimistic": ensemble.metrics.accuracy}
        (unfinished / "accuracy.json").write_text(json.dumps(accuracy) + "\n", encoding="utf-8")


def load_proxy(kind: str, settings: Settings, folder: Path) -> Reward:
    """Load a fitted proxy."""
    if kind == "single":
        from rlhf_envs.rewards.reward_model import RewardModel

        return RewardModel(str(folder / "single"))
    return Pessimistic(str(folder / "ensemble"), k=settings.k)


def run_ppo(proxy: Reward, settings: Settings, seed: int) -> list[Point]:
    """Train PPO against the proxy, and return points with KL, proxy and gold on test and gold on validation prompts."""
    agent = make("ppo", ENV, n_envs=settings.n_envs, seed=seed, learning_rate=settings.learning_rate, **PPO)
    agent.get_env().set_attr("reward_fn", proxy)
    points: list[Point] = []
    while True:
        on_test, on_validation = (
            evaluate(agent, ENV, settings.episodes, split, env_kwargs={"reward_fn": proxy}, seed=seed)
            for split in ("test", "validation")
        )
        points.append(
            {
                "tokens": agent.num_timesteps,
                "kl": float(on_test.kl.mean()),  # type: ignore[union-attr]
                "proxy": float(on_test.reward.mean()),
                "gold": float(on_test.judges["gold"].mean()),
                "validation_gold": float(on_validation.judges["gold"].mean()),
            }
        )
        shown = ", ".join(f"{name} {value:,.2f}" for name, value in points[-1].items())
        print(f"seed {seed}, {proxy.name}: {shown}", file=sys.stderr, flush=True)
        if agent.num_timesteps >= settings.tokens:
            return points
        agent.learn(settings.every, reset_num_timesteps=False)


def best_of_n_weights(pool: int, n: int) -> np.ndarray:
    """Return the probability, (pool,), that each of `pool` samples, sorted from worst to best, is the best of n drawn.

    The k-th (from 1) is the best if it is drawn and the others come from the k - 1 below it: C(k-1, n-1) / C(pool, n).
    The mean of any metric under these weights is its unbiased estimate for best-of-n (Nakano et al. 2021, "WebGPT",
    appendix I).
    """
    if not 1 <= n <= pool:
        raise ValueError(f"best of {n} in a pool of {pool} samples: n must be from 1 to {pool}")
    log_factorial = np.cumsum(np.log(np.maximum(np.arange(pool + 1), 1)))

    def log_choose(of: np.ndarray | int, chosen: int) -> Any:
        return log_factorial[of] - log_factorial[chosen] - log_factorial[np.asarray(of) - chosen]

    weights = np.zeros(pool)
    below = np.arange(n - 1, pool)
    weights[n - 1 :] = np.exp(log_choose(below, n - 1) - log_choose(pool, n))
    return weights


def best_of_n(proxy: np.ndarray, gold: np.ndarray, n: int) -> Point:
    """Return KL, proxy and gold of the best of n by the proxy. Both scores are (prompts, pool)."""
    order = proxy.argsort(axis=1)
    weights = best_of_n_weights(proxy.shape[1], n)
    means = {
        name: float((np.take_along_axis(scores, order, 1) @ weights).mean())
        for name, scores in (("proxy", proxy), ("gold", gold))
    }
    return {"n": n, "kl": float(np.log(n) - (n - 1) / n), **means}


def run_best_of_n(proxies: dict[str, Reward], settings: Settings, seed: int) -> dict[str, list[Point]]:
    """Return the points of best-of-n of the untrained model, with one pool of samples for both proxies."""
    agent = make("ppo", ENV, n_envs=1, seed=seed, temperature=PPO["temperature"])
    n_rows = len(load_rows("sentiment", "test"))
    indices = np.repeat(held_out_indices(n_rows, settings.prompts), settings.pool)
    gold_judge = get_reward("gold")
    samples = generate(agent, make_vec_env(ENV, 1, split="test", reward_fn=gold_judge), indices=indices, seed=seed)
    texts = [sample.prompt for sample in samples], [sample.completion for sample in samples]
    shape = settings.prompts, settings.pool
    gold = np.array([sample.reward for sample in samples]).reshape(shape)
    sizes = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= settings.pool]
    scored = {kind: np.asarray(proxy(*texts)).reshape(shape) for kind, proxy in proxies.items()}
    return {kind: [best_of_n(scores, gold, n) for n in sizes] for kind, scores in scored.items()}


def cached(path: Path, compute: Callable[[], Any]) -> Any:
    """Return the content of a JSON file. Compute and write it first if there is none."""
    if not path.is_file():
        start = time.perf_counter()
        result = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, (json.dumps(result, indent=1) + "\n").encode())
        print(f"{path}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return json.loads(path.read_text(encoding="utf-8"))


def run(settings: Settings, seeds: int, jobs: int, folder: Path) -> list[dict[str, Any]]:
    """Return the results of every seed, `jobs` seeds at a time. Results that are in the folder already are read."""
    if cached(folder / "settings.json", lambda: asdict(settings)) != asdict(settings):
        sys.exit(f"{folder} holds results of other settings (settings.json): choose another --folder, or remove it")
    if jobs == 1:
        return [run_seed(settings, seed, folder) for seed in range(seeds)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as workers:
        return list(workers.map(run_seed, repeat(settings), range(seeds), repeat(folder)))


def run_seed(settings: Settings, seed: int, folder: Path) -> dict[str, Any]:
    """Return the results of one seed."""
    place = folder / f"seed_{seed}"
    fitted = place / "proxies" / "accuracy.json"
    if not fitted.is_file():
        fit_proxies(settings, seed, place / "proxies")
    proxies = {kind: load_proxy(kind, settings, place / "proxies") for kind in KINDS}
    return {
        "accuracy": json.loads(fitted.read_text(encoding="utf-8")),
        "best-of-n": cached(place / "best_of_n.json", lambda: run_best_of_n(proxies, settings, seed)),
        "ppo": {
            kind: cached(place / f"ppo_{kind}.json", lambda p=proxy: run_ppo(p, settings, seed))
            for kind, proxy in proxies.items()
        },
    }


def main() -> None:
    defaults = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", default="runs/overoptimisation", help="keep the results here, and continue from there"
    )
    parser.add_argument("--docs", help="write the page overoptimisation.md with its picture into this folder too")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time, one process each")
    for name, value in asdict(defaults).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = parser.parse_args()
    settings = Settings(**{name: getattr(args, name) for name in asdict(defaults)})
    folder = Path(args.folder)
    results = run(settings, args.seeds, args.jobs, folder)
    picture = folder / "overoptimisation.png"
    draw(results, settings.patience, picture)
    text = "\n".join(report(results, asdict(settings)))
    print(text)
    if args.docs:
        page = Path(args.docs) / "overoptimisation.md"
        page.with_suffix(".png").write_bytes(picture.read_bytes())
        page.write_text(f"{INTRODUCTION}\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
