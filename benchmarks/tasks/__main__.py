"""Measure by how much reinforcement learning raises a task's metric above its SFT start, over several seeds.

`python -m benchmarks.tasks rlhf/SpamFilter-v0 --seeds 3 --write` runs `rlhf sft` and `rlhf train` for every seed, in
processes of their own, with the flags of `plans.yml`, and reads the reports. The metric is another one than the reward,
on the test split. The gain is the mean over the seeds, with its standard error. `--write` keeps the row in
`rlhf_envs/tasks/results.json`, which `rlhf envs` and the documentation show, and in the table of both READMEs; with no
environment it writes the tables alone. Further arguments go to `rlhf train`, such as `--test-split validation` for
choosing settings.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from agents.training.hyperparams import parse_yaml
from benchmarks.learning import run
from rlhf_envs.files import replace_file, replace_json
from rlhf_envs.registration import describe, task_of
from rlhf_envs.tasks.results import MIN_SEMS, RESULTS, gain_of, improved, read_results, results_table

PLANS = Path(__file__).parent / "plans.yml"
ROOT = Path(__file__).parents[2]
NO_SETTINGS = ("model", "test-episodes")  # flags of a plan's `train` that do not change how an agent learns


def read_plans() -> dict[str, dict[str, Any]]:
    """Return the plan of every task that is measured, by environment id."""
    return dict(parse_yaml(PLANS.read_text(encoding="utf-8")))


def write_tables(root: Path) -> None:
    """Put the table of results into both READMEs, in place of the table with the same heading."""
    languages: dict[str, Literal["en", "zh"]] = {"README.md": "en", "README.zh.md": "zh"}
    for page, language in languages.items():
        table = results_table(language)
        heading = re.escape(table.partition("\n")[0])
        text = (root / page).read_text(encoding="utf-8")
        (old,) = re.findall(rf"^{heading}\n(?:\|.*\n)*", text, flags=re.MULTILINE)
        replace_file(root / page, text.replace(old, table + "\n").encode())


def as_flags(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as flags of a command: lists repeat their flag, true stands alone."""
    flags: list[str] = []
    for name, value in settings.items():
        for one in value if isinstance(value, list) else [value]:
            flags += [f"--{name}"] if one is True else [f"--{name}", str(one)]
    return flags


def make_base(env_id: str, folder: Path) -> dict[str, str]:
    """Make the model that the task's start begins with, where it has a `pretraining`; return the flags that name it."""
    task = task_of(env_id)
    if task is None or task.pretraining is None:
        return {}
    source, name, *flags = task.pretraining.split()
    if not (folder / name).exists():
        call_rlhf(f"the pre-training of {env_id}", ["pretrain", source, str(folder / name), *flags])
    return {"model": str(folder / name)}


def call_rlhf(what: str, words: list[str]) -> None:
    """Run a command of `rlhf` in a process of its own, and end with what it printed if it failed."""
    done = subprocess.run([sys.executable, "-m", "agents.cli", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{what} failed:\n{done.stdout}\n{done.stderr}")


def measure_seed(env_id: str, plan: Mapping[str, Any], seed: int, folder: Path, further: list[str]) -> dict[str, Any]:
    """Fine-tune a start if the plan has one, train from it, and return the report with the seconds of both.

    `cpu_seconds` are those of all processes of the seed. The pre-training of the base is not among them.
    """
    base = make_base(env_id, folder) if "sft" in plan else {}
    flags, started, before = as_flags(plan.get("train", {})), time.perf_counter(), os.times()
    if "sft" in plan:
        start = folder / f"start_{seed}"
        words = ["sft", plan.get("demonstrations", env_id), str(start), "--seed", str(seed)]
        call_rlhf(f"the SFT start of seed {seed}", [*words, *as_flags({**base, **plan["sft"]})])
        flags += ["--model", str(start)]
    prepared = time.perf_counter() - started
    report = run(plan["algo"], env_id, seed, folder, ["--eval-freq", "0", *flags, *further])
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return {"sft_seconds": prepared, "cpu_seconds": spent, **report}


def named_model(env_id: str, plan: Mapping[str, Any]) -> str | None:
    """Return the name of the model that the start begins with: that of the plan, of the pre-training or of the task."""
    task = task_of(env_id)
    if "sft" in plan and task is not None and task.pretraining is not None:
        return task.pretraining.split()[1]
    return plan.get("sft", {}).get("model") or plan.get("train", {}).get("model") or describe(env_id).model


def settings_of(plan: Mapping[str, Any]) -> str:
    """Return the flags of `rlhf train` by which a plan changes how an agent learns, or ""."""
    return " ".join(as_flags({name: to for name, to in plan.get("train", {}).items() if name not in NO_SETTINGS}))


def change_of(metric: str, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a metric's mean before and after training, and the gain with its standard error over the seeds."""
    before, after = ([r[when]["estimates"][metric]["mean"] for r in reports] for when in ("before", "after"))
    gains = [b - a for a, b in zip(before, after, strict=True)]
    return {
        "before": round(statistics.mean(before), 4),
        "after": round(statistics.mean(after), 4),
        "gain": round(statistics.mean(gains), 4),
        "sem": round(statistics.stdev(gains) / len(gains) ** 0.5, 4) if len(gains) > 1 else None,
    }


def summarise(env_id: str, plan: Mapping[str, Any], reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the entry of `results.json`: the changes of the metric and of those that must not fall, and what ran."""
    metric = plan["metric"]
    further: dict[str, Any] = {"best": plan["best"]} if "best" in plan else {}
    if flags := settings_of(plan):
        further["flags"] = flags
    if kept := {name: change_of(name, reports) for name in plan.get("kept", ())}:
        further["kept"] = kept
    return {
        "metric": metric,
        "algo": plan["algo"],
        "model": named_model(env_id, plan),
        "start": "sft" if "sft" in plan else "model",
        **change_of(metric, reports),
        "seeds": len(reports),
        "n_timesteps": reports[0]["n_timesteps"],
        "prompts": reports[0]["after"]["prompts"],
        **further,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", nargs="*", help=", ".join(sorted(read_plans())))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--folder", help="keep the runs here; a temporary folder by default")
    parser.add_argument("--write", action="store_true", help="keep the results in results.json and in the READMEs")
    args, further = parser.parse_known_args()
    if not args.env and not args.write:
        parser.error("name an environment, or give --write alone to put the table of results into the READMEs")
    if unknown := [env_id for env_id in args.env if env_id not in read_plans()]:
        parser.error(f"no plan for {unknown[0]!r} in {PLANS}; there are {', '.join(sorted(read_plans()))}")
    for env_id in args.env:
        plan = read_plans()[env_id]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(args.folder or temporary) / env_id.rpartition("/")[2]
            seeds = range(args.first_seed, args.first_seed + args.seeds)
            reports = [measure_seed(env_id, plan, seed, folder, further) for seed in seeds]
        print(f"\n{env_id}: {plan['algo']}, {reports[0]['n_timesteps']:,} tokens", *further, "\n")
        own = [plan["metric"], *plan.get("kept", ()), *plan.get("also", ())]
        shown = list(dict.fromkeys(["reward", *own, "kl", "eos_share", "length"]))
        print("| seed | SFT s | training s | CPU s | " + " | ".join(shown) + " |\n" + "|---" * (len(shown) + 4) + "|")
        for seed, report in zip(seeds, reports, strict=True):
            ends = [[report[when]["estimates"][name]["mean"] for when in ("before", "after")] for name in shown]
            cells = " | ".join(f"{before:.3f} -> {after:.3f}" for before, after in ends)
            seconds = " | ".join(f"{report[name]:.0f}" for name in ("sft_seconds", "seconds", "cpu_seconds"))
            print(f"| {seed} | {seconds} | {cells} |")
        result = summarise(env_id, plan, reports)
        print(f"\n{result['metric']}: a gain of {gain_of(result)}", end="")
        if result["sem"] is not None:
            met = "better by at least" if improved(result) else "not better by"
            print(f" (standard error over {len(reports)} seeds; {met} {MIN_SEMS} of them)", end="")
        for name, kept in result.get("kept", {}).items():
            print(f"\n{name}, which must not fall: {gain_of(kept)}", end="")
        for sample in reports[0]["after"]["samples"][:4]:
            print(
                "\n" + json.dumps({key: sample[key] for key in ("prompt", "completion", "reward")}, ensure_ascii=False),
                end="",
            )
        print()
        if args.write:
            replace_json(RESULTS, {**read_results(), env_id: result}, indent=2)
    if args.write:
        write_tables(ROOT)


if __name__ == "__main__":
    main()
