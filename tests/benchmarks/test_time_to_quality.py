"""The race to a given quality: what its clock counts, when it ends, what its prompts are, and what its report says."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_envs.models import load_tokenizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of `benchmarks`, which is not installed."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return lambda name: importlib.import_module(f"benchmarks.{name}")


class Judged:
    """Stand for an evaluation with these means."""

    def __init__(self, gold: float, kl: float = 0.0, distinct: float = 0.5) -> None:
        self.gold, means = gold, {"kl": kl, "distinct_bigrams": distinct, "reward": 0.0, "length": 9.0}
        self.estimates = lambda: {name: SimpleNamespace(mean=mean) for name, mean in means.items()}

    def change_from(self, before: Judged) -> dict[str, Any]:
        return {"gold": SimpleNamespace(mean=self.gold - before.gold, sem=0.0)}

    def samples(self, n: int) -> list[Any]:
        return [SimpleNamespace(prompt="p", completion=f"{self.gold}")]


@pytest.mark.parametrize(
    ("end", "is_over"),
    [(Judged(0.7, 6.0, 0.4), True), (Judged(0.64), False), (Judged(0.7, 6.1), False), (Judged(0.7, 1, 0.39), False)],
)
def test_a_race_ends_at_the_gain_if_the_kl_and_the_bigrams_allow_it(benchmark: Any, end: Judged, is_over: bool) -> None:
    looks = iter([Judged(0.5), Judged(0.55, 1.0), end])
    race = benchmark("time_to_quality.racing").Race("ppo", every=10, tokens=100)
    referee = benchmark("time_to_quality.racing").Referee(race, lambda: next(looks))
    assert [referee.is_over(tokens) for tokens in (0, 12, 20, 24)] == [False, False, False, is_over]
    assert [point["tokens"] for point in referee.curve] == [12, 24]
    assert referee.curve[0]["gain"] == pytest.approx(0.05)
    assert referee.curve[0]["distinct"] == 1.0
    result = referee.result()
    assert (result["reached"], result["samples"]) == (is_over, [["p", "0.5", f"{end.gold}"]])


def test_the_clock_stands_still_while_completions_are_judged(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    racing, now = benchmark("time_to_quality.racing"), [0.0]
    monkeypatch.setattr(racing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(racing.time, "process_time", lambda: now[0] / 2)

    def judge() -> Judged:
        now[0] += 100
        return Judged(0.5)

    referee = racing.Referee(racing.Race("ppo", tokens=20), judge)
    for tokens in (10, 20):
        now[0] += 2
        over = referee.is_over(tokens)
    assert over, "the limit of tokens"
    assert (referee.curve[-1]["wall"], referee.curve[-1]["cpu"]) == (4, 2)


def test_prompts_are_equally_long_and_cut_between_words(benchmark: Any) -> None:
    tokenizer = load_tokenizer("tiny")
    rows = benchmark("time_to_quality.racing").equal_prompts(tokenizer, 5)
    assert {len(ids) for ids in tokenizer([row["prompt"] for row in rows])["input_ids"]} == {5}
    assert {row["reference"][:1] for row in rows} == {" "}
    prompts = {split: {row["prompt"] for row in rows if row["split"] == split} for split in ("train", "test")}
    assert min(map(len, prompts.values())) > 250
    assert prompts["train"].isdisjoint(prompts["test"])


def result(benchmark: Any, contender: str, seed: int, cpu: float, reached: bool = True, **settings: Any) -> Any:
    race = benchmark("time_to_quality.racing").Race(contender, settings, seed)
    point = {"tokens": 1000, "wall": 2 * cpu, "cpu": cpu, "gain": 0.16, "sem": 0.02, "kl": 3.0, "distinct": 1.0}
    return {
        **asdict(race),
        "arm": race.arm,
        "reached": reached,
        "curve": [{**point, "reward": 1.0, "length": 20.0}],
        "samples": [["a film", "so so", "so good"]],
    }


def test_the_report_compares_with_trls_best_and_not_what_failed(benchmark: Any) -> None:
    seconds = {"ppo": (2, 2, 4), "rloo": (1, 1, 1), "trl-grpo": (6, 4, 4), "trl-rloo": (7, 9, 8)}
    results = [result(benchmark, name, seed, cpu) for name, of in seconds.items() for seed, cpu in enumerate(of)]
    results[4]["reached"] = False  # the second of rloo
    lines = benchmark("time_to_quality.compare").report(results)
    assert (
        lines[2] == "| ppo | 3 of 3 | 2.0 (2.0-4.0) | 4.0 (4.0-8.0) | 1000 (1000-1000) | 0.160 (0.160-0.160) | "
        "3.0 (3.0-3.0) | 1.00 (1.00-1.00) | 20.0 (20.0-20.0) |"
    )
    assert lines[3].startswith("| rloo | 2 of 3 |")
    ratios = "s of CPU 2.00 (1.00-3.00); s 2.00 (1.00-3.00); tokens 1.00 (1.00-1.00)"
    assert [line for line in lines if "seed by seed" in line] == [f"trl-grpo / ppo, seed by seed: {ratios}"]
    assert "- 'a film': 'so so' -> 'so good'" in lines

    for failed in (results[6], results[9], results[10]):  # one of TRL's GRPO, two of its RLOO
        failed["reached"] = False
    shown = [line for line in benchmark("time_to_quality.compare").report(results) if "seed by seed" in line]
    assert shown == [f"trl-grpo / ppo, seed by seed, of runs that did not all reach it (a lower bound): {ratios}"]


def grid(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, contender: str, outcome: Any
) -> tuple[dict[str, Any], list[Any]]:
    """Search with runs whose seconds of CPU, and whether they reach the target, `outcome(settings, seed)` says.

    Returns:
        the best settings, and the races that were run.
    """
    module, raced = benchmark("time_to_quality.compare"), []

    def run_all(races: Any, folder: Path, jobs: int, patience: float) -> list[Any]:
        raced.extend(races)
        return [
            result(benchmark, race.contender, race.seed, *outcome(race.settings, race.seed), **race.settings)
            for race in races
        ]

    monkeypatch.setattr(module, "run_all", run_all)
    like = benchmark("time_to_quality.racing").Race(contender)
    return module.grid(like, (100, 101, 102), folder, 1), raced


def test_the_grid_takes_the_arm_that_is_best_over_the_seeds(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Some arms are lucky on the first seed. The best one has a setting of the second step."""

    def outcome(settings: Any, seed: int) -> tuple[float, bool]:
        lucky = settings["num_generations"] == 8 and seed == 100
        slow = settings["learning_rate"] * 1e4 - settings["beta"] - settings["num_iterations"]
        return 2 + slow - lucky + (settings["num_generations"] == 8) * 0.8, True

    best, raced = grid(benchmark, monkeypatch, tmp_path, "trl-grpo", outcome)
    chosen = [best[name] for name in ("learning_rate", "num_generations", "num_iterations", "beta")]
    assert chosen == [3e-4, 4, 2, 0.04]
    assert {race.seed for race in raced if race.settings == best} == {100, 101, 102}
    assert len({race.arm for race in raced if race.seed == 102}) == 4


def test_an_arm_that_misses_the_target_is_never_better(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def outcome(settings: Any, seed: int) -> tuple[float, bool]:
        hasty = settings["learning_rate"] == 8e-4 and settings["n_envs"] == 32
        return (1.0, seed == 100) if hasty else (9.0, True)

    best, _ = grid(benchmark, monkeypatch, tmp_path, "rloo", outcome)
    assert (best["learning_rate"], best["n_envs"]) != (8e-4, 32)


def test_a_profile_counts_what_is_outside_and_nothing_while_completions_are_judged(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = benchmark("time_to_quality.profile")
    shares, now = module.Shares(), [0.0]
    monkeypatch.setattr(module.time, "process_time", lambda: now[0])

    def spend(seconds: float) -> None:
        now[0] += seconds

    inner = shares.timed(spend, lambda: "backward")

    def call(seconds: float) -> None:
        spend(1)
        inner(seconds)

    outer = shares.timed(call, lambda: "reward")

    class Judging(benchmark("time_to_quality.racing").Referee):  # type: ignore[misc]
        pass

    shares.follow(Judging)
    race = benchmark("time_to_quality.racing").Race("ppo", tokens=20)
    referee = Judging(race, lambda: (inner(100), Judged(0.5))[1])
    inner(2)
    assert not referee.is_over(10)
    outer(5)
    assert referee.is_over(20)
    inner(100)
    assert shares.seconds == dict.fromkeys(module.PARTS, 0.0) | {"backward": 2.0, "reward": 6.0}


@pytest.mark.slow
@pytest.mark.parametrize("contender", ["reinforce", "trl-rloo"])
def test_a_profile_of_a_short_race_has_all_its_seconds(
    benchmark: Any, contender: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = benchmark("time_to_quality.profile")
    module.main(["--contenders", contender, "--tokens", "40", "--episodes", "4"])
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {contender} | "))
    whole, *parts = (float(cell) for cell in row.strip("| ").split(" | ")[1:])
    assert len(parts) == len(module.PARTS) + 1
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(whole, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("contenders", [["reinforce"], ["trl-grpo"], ["trl-rloo"]])
def test_it_runs(benchmark: Any, contenders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = benchmark("time_to_quality.compare")
    toy = ["--seeds", "0", "--episodes", "4", "--tokens", "40", "--split", "validation"]
    given = ["n_envs=2"] if contenders == ["reinforce"] else ["completions=4", "num_generations=2"]
    module.main(["--out", str(tmp_path), "--contenders", *contenders, *toy, "--set", *given])
    printed = capsys.readouterr().out
    (race,) = module.read(tmp_path)
    assert race["curve"][-1]["tokens"] >= 40
    assert race["curve"][-1]["kl"] > 0
    assert f"| {contenders[0]} | 0 of 1 |" in printed
