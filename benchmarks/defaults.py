"""Measure whether other settings of the on-policy algorithms are better than those that they had on rlhf/Sentiment-v0.

`python -m benchmarks.defaults --algos a2c reinforce --seeds 100 101 --out FOLDER` trains every arm of these algorithms
(`ARMS`) with every seed, in turns, each run in a process of its own on one thread, and judges completions of the
validation prompts before and after. Results stay in the folder, a file per run, and the same command goes on from them.
It prints a table and, arm by arm, how much more than "former" it gained, with standard errors over the seeds. The
differences count seeds that both arms ran. "former" is what the settings file had when "few" became PPO's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

__all__ = ["ARMS", "main", "report", "settings_of"]

ENV = "rlhf/Sentiment-v0"
SHARED = {"temperature": 0.7, "kl_coef": 0.35, "kl_target": 6.0, "kl_horizon": 2000}
MINIBATCHES = {"batch_size": 512, "n_epochs": 2}
FORMER: dict[str, dict[str, Any]] = {
    "a2c": {"n_timesteps": 49152, "n_envs": 32, "learning_rate": 3e-4, **SHARED},
    "reinforce": {"n_timesteps": 40960, "n_envs": 32, "learning_rate": 3e-4, **SHARED},
    "online_dpo": {
        **{"n_timesteps": 40960, "n_envs": 64, "learning_rate": 2e-4, **MINIBATCHES},
        **{"beta": 0.35, "temperature": 0.7},
    },
    "awr": {"n_timesteps": 40960, "n_envs": 64, "learning_rate": 2e-4, **MINIBATCHES, **SHARED},
    "nlpo": {
        **{"n_timesteps": 40960, "n_envs": 64, "learning_rate": 1e-4, **MINIBATCHES, **SHARED},
        **{"mask_top_p": 0.95, "target_update": 5},
    },
    "ppo_lagrangian": {
        **{"n_timesteps": 40960, "n_envs": 64, "learning_rate": 1e-4, **MINIBATCHES, **SHARED},
        **{"cost": "repetition", "cost_limit": 0.05},
    },
    "trpo": {
        **{"n_timesteps": 40960, "n_envs": 64, "learning_rate": 1e-4, **SHARED},
        **{"target_kl": 0.01, "cg_max_steps": 5, "train": 2},
    },
}
EPSILON = {"optimizer_kwargs": {"eps": 1e-8}}  # torch's; SB3's is 1e-5
ROLLOUT = {"n_timesteps": 24576, "n_envs": 32}
FEW = {**ROLLOUT, "n_epochs": 1, **EPSILON}
# What an arm changes in "former".
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "a2c": {"few, 2e-4": {**ROLLOUT, **EPSILON, "learning_rate": 2e-4}, "few, 3e-4": {**ROLLOUT, **EPSILON}},
    "reinforce": {"few, 2e-4": {**ROLLOUT, **EPSILON, "learning_rate": 2e-4}, "few, 3e-4": {**ROLLOUT, **EPSILON}},
    "online_dpo": {"few, 2e-4": FEW, "few, 4e-4": {**FEW, "learning_rate": 4e-4}},
    "awr": {"few, 2e-4": FEW, "few, 1e-4, 2 epochs": {**FEW, "learning_rate": 1e-4, "n_epochs": 2}},
    "nlpo": {"few, 2e-4": {**FEW, "learning_rate": 2e-4}, "few, 2.5e-4": {**FEW, "learning_rate": 2.5e-4}},
    "ppo_lagrangian": {"few, 2.5e-4": {**FEW, "learning_rate": 2.5e-4}},
    "trpo": {
        "few, target 0.02": {**ROLLOUT, "target_kl": 0.02},
        "target 0.02": {"target_kl": 0.02},
    },
}
COLUMNS = ("gold gain", "KL", "distinct x", "length", "s of CPU")


def settings_of(algo: str, arm: str) -> dict[str, Any]:
    """Return the settings of an arm, all of a section of a settings file.

    Raises:
        ValueError: the algorithm has no such arm. The message has those it has.
    """
    changes = {"former": {}, **ARMS[algo]}
    if arm not in changes:
        raise ValueError(f"{algo} has no arm {arm!r}: there are {', '.join(map(repr, changes))}")
    return {**FORMER[algo], **changes[arm]}


def run(algo: str, arm: str, seed: int) -> dict[str, Any]:
    """Train with an arm's settings in this process, and return its row, samples and seconds of CPU."""
    import torch

    from agents.training.config import TrainConfig
    from agents.training.hyperparams import write_section
    from agents.training.run import train

    from .learning import row

    torch.set_num_threads(1)
    since = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "settings.yml"
        write_section(settings, algo, settings_of(algo, arm))
        flags: dict[str, Any] = {"algo": algo, "env": ENV, "seed": seed, "settings": str(settings)}
        flags |= {"log_folder": folder, "test_split": "validation", "eval_freq": 0, "progress": False, "device": "cpu"}
        result = train(TrainConfig(**flags))
        written = json.loads((result.folder / "report.json").read_text(encoding="utf-8"))
    figures = row({"seconds": result.seconds, **written}) | {"s of CPU": time.process_time() - since}
    pairs = zip(written["before"]["samples"], written["after"]["samples"], strict=True)
    samples = [[one["prompt"], one["completion"], other["completion"]] for one, other in pairs]
    return {"algo": algo, "arm": arm, "seed": seed, "figures": figures, "samples": samples}


def run_all(algos: Sequence[str], arms: Sequence[str], seeds: Sequence[int], folder: Path) -> list[dict[str, Any]]:
    """Run what the folder does not hold yet, one run at a time, and return all results, algorithm by algorithm."""
    folder.mkdir(parents=True, exist_ok=True)
    context = get_context("forkserver")
    context.set_forkserver_preload(["agents.training.run", "torch._dynamo", "transformers.models.gpt2.modeling_gpt2"])
    results: dict[tuple[str, str, int], dict[str, Any]] = {}
    for algo in algos:
        chosen = [arm for arm in ("former", *ARMS[algo]) if not arms or arm in arms]
        for seed in seeds:
            for arm in chosen:
                file = folder / f"{algo},{arm},seed={seed}.json".replace(" ", "")
                if not file.is_file():
                    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as worker:
                        result = worker.submit(run, algo, arm, seed).result()
                    file.write_text(json.dumps(result) + "\n", encoding="utf-8")
                results[algo, arm, seed] = json.loads(file.read_text(encoding="utf-8"))
                shown = ", ".join(f"{name} {results[algo, arm, seed]['figures'][name]:.3f}" for name in COLUMNS)
                print(f"{algo}, {arm}, seed {seed}: {shown}", flush=True)
    return sorted(results.values(), key=lambda r: (algos.index(r["algo"]), r["arm"] != "former", r["arm"], r["seed"]))


def report(results: Sequence[Mapping[str, Any]], n_samples: int = 6) -> list[str]:
    """Return a table with a row per arm, each arm's differences from "former", and the first seed's texts."""
    arms: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for result in results:
        arms.setdefault((result["algo"], result["arm"]), {})[result["seed"]] = result
    lines = [f"| algorithm | settings | seeds | {' | '.join(COLUMNS)} |", "|" + "---|" * (3 + len(COLUMNS))]
    for (algo, arm), of in arms.items():
        cells = [_mean([r["figures"][name] for r in of.values()]) for name in COLUMNS]
        lines.append(f"| {algo} | {arm} | {len(of)} | {' | '.join(cells)} |")
    for (algo, arm), of in arms.items():
        former = arms.get((algo, "former"), {})
        if arm != "former" and (both := sorted(of.keys() & former.keys())):
            values = {
                name: ([of[seed]["figures"][name] for seed in both], [former[seed]["figures"][name] for seed in both])
                for name in COLUMNS
            }
            shown = "; ".join(f"{name} {_difference(*values[name])}" for name in COLUMNS)
            lines += ["", f"{algo}, {arm}, less former, {len(both)} seeds: {shown}"]
    for (algo, arm), of in arms.items():
        seed = min(of)
        lines += ["", f"{algo}, {arm}, seed {seed}:"]
        lines += [f"- {prompt!r}: {before!r} -> {after!r}" for prompt, before, after in of[seed]["samples"][:n_samples]]
    return lines


def _error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {_error(values):.3f}"


def _difference(new: Sequence[float], old: Sequence[float]) -> str:
    """Return the difference of two means with its standard error; the seeds do not pair the runs."""
    error = (_error(new) ** 2 + _error(old) ** 2) ** 0.5
    return f"{statistics.mean(new) - statistics.mean(old):+.3f} ± {error:.3f}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="the folder of the results, read where there are some")
    parser.add_argument("--algos", nargs="+", choices=[*FORMER], default=[*FORMER])
    parser.add_argument("--arms", nargs="+", default=[], help="arms by name; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101])
    parser.add_argument("--samples", type=int, default=6, help="texts to print per arm")
    args = parser.parse_args(argv)
    print("\n".join(["", *report(run_all(args.algos, args.arms, args.seeds, args.out), args.samples)]))


if __name__ == "__main__":
    main()
