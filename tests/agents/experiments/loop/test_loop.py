"""The loop closes, and a run of it that is stopped, killed or fails goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from agents import make_vec_env
from agents.algorithms.common.offline import OfflinePreferences
from agents.experiments import stepping
from agents.experiments.loop import feedback
from agents.experiments.loop.loop import LoopConfig, LoopResult, run_loop
from agents.experiments.loop.report import markdown, plot_rounds
from agents.experiments.loop.state import with_defaults
from agents.saving.loading import load_policy
from agents.training.run import RunInterrupted
from rlhf_envs.models import resolve
from rlhf_envs.rewards.reward_model import RewardModel
from tests.agents.experiments.loop.runs import SETTINGS, config
from tests.forked import run_python

pytest.importorskip("sqlalchemy", reason="the feedback store needs the extra web")
pytest.importorskip("crowdkit", reason="aggregation needs the extra agreement")


def run(folder: Path, **kwargs: Any) -> LoopResult:
    return run_loop(config(folder, **kwargs), say=lambda _: None)


def go_on(folder: Path, **flags: Any) -> LoopResult:
    """What `rlhf loop --resume` does."""
    return run_loop(LoopConfig.of_folder(folder, LoopConfig(**flags)), folder, say=lambda _: None)


@pytest.fixture(scope="module")
def unbroken(module_path: Path) -> LoopResult:
    return run(module_path)


def comparable(folder: Path) -> dict[str, Any]:
    """What a run's report says, save for the wall clock."""
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    report.pop("seconds")
    for figures in report["rounds"]:
        figures.pop("seconds")
    return report


def assert_same_run(folder: Path, unbroken: LoopResult) -> None:
    assert comparable(folder) == comparable(unbroken.folder)
    for name in ("agent/policy.safetensors", "agent/optimizer.safetensors"):
        place = Path("round_2/learn") / name
        assert (folder / place).read_bytes() == (unbroken.folder / place).read_bytes(), name
    assert [path.name for path in folder.rglob(".*.tmp-*")] == []


def test_every_round_asks_fits_learns_and_evaluates(unbroken: LoopResult) -> None:
    start, first, second = unbroken.metrics
    assert [figures["tokens"] for figures in unbroken.metrics] == [0, 192, 384]
    assert start["estimates"]["kl"]["mean"] == pytest.approx(0, abs=1e-5)
    moved = [abs(figures["estimates"]["kl"]["mean"]) for figures in (first, second)]
    assert min(moved) > 1e-3, "the policy moved (the k1 estimate of few episodes may be negative)"
    for figures in (first, second):
        assert figures["asked"] == 12
        assert figures["judgements"] == 36 == figures["asked"] * 3
        assert figures["by_people"] == figures["skips"] == 0
        assert figures["planted"] == first["planted"]
    assert first["fitted_to"] + first["held_out"] <= 12 < second["fitted_to"] + second["held_out"]  # of all rounds
    assert "accuracy_fresh" not in first
    assert 0 <= second["accuracy_fresh"] <= 1


def test_the_rewards_differ_and_each_is_that_of_its_round(unbroken: LoopResult) -> None:
    """What a round's evaluation calls the proxy is what its own reward model says of the completions."""
    samples = [figures["samples"] for figures in unbroken.metrics]
    for number in (1, 2):
        proxy = RewardModel(str(unbroken.folder / f"round_{number}/fit/proxy"))
        told = proxy([s["prompt"] for s in samples[number]], [s["completion"] for s in samples[number]])
        np.testing.assert_allclose([s["reward"] for s in samples[number]], told, atol=1e-5)
    assert [s["reward"] for s in samples[1]] != [s["reward"] for s in samples[2]]


def test_a_reward_model_is_normalised_over_what_the_first_policy_wrote(unbroken: LoopResult) -> None:
    pairs = json.loads((unbroken.folder / "round_1/generate/pairs.json").read_text())
    texts = [(pair["prompt"], completion) for pair in pairs for completion in pair["completions"]]
    for number in (1, 2):
        scores = RewardModel(str(unbroken.folder / f"round_{number}/fit/proxy"))(*map(list, zip(*texts, strict=True)))
        assert (np.mean(scores), np.std(scores)) == pytest.approx((0, 1), abs=1e-4)


def test_accuracy_on_fresh_pairs_is_the_last_rounds_model_on_this_rounds_labels(unbroken: LoopResult) -> None:
    """Recomputed from the store's judgements, by majority."""
    folder = unbroken.folder
    snapshot = json.loads((folder / "round_2/ask/judgements.json").read_text())
    proxy, right = RewardModel(str(folder / "round_1/fit/proxy")), []
    for item in (item for item in snapshot["items"] if item["meta"]["round"] == 2):
        one, other = proxy([item["prompt"]] * 2, list(item["completions"]))
        right.append((item["id"], 0 if one > other else 1))
    from rlhf_envs.preferences.crowd import aggregate_pairs

    items, judgements = feedback.read_snapshot(snapshot)
    rows = aggregate_pairs(items, judgements, method="majority")
    chosen = {item.id: item.completions.index(row["chosen"]) for item, row in zip(items, rows, strict=True)}
    assert unbroken.metrics[2]["accuracy_fresh"] == pytest.approx(np.mean([chosen[i] == side for i, side in right]))


def test_the_kl_reference_stays_the_first_model(unbroken: LoopResult) -> None:
    first, _ = load_policy(unbroken.folder / "round_0/learn/agent")
    last, _ = load_policy(unbroken.folder / "round_2/learn/agent")
    start = first.language_model.trained_parameters()
    for name, reference in last.reference.parameters_by_name().items():
        torch.testing.assert_close(reference, start[name].data, rtol=0, atol=0)
    moved = last.language_model.trained_parameters()
    assert any(not torch.equal(moved[name], start[name]) for name in start)


@pytest.mark.slow
def test_adapters_learn_round_by_round_and_are_merged_where_their_base_has_no_name(tmp_path: Path) -> None:
    result = run(tmp_path, train="lora", hyperparams=dict(batch_size=48, n_epochs=2, learning_rate=0.02))
    start, *rounds = (figures["estimates"]["kl"]["mean"] for figures in result.metrics)
    assert start == pytest.approx(0, abs=1e-5)
    assert all(abs(kl) > 1e-3 for kl in rounds)
    policy, _ = load_policy(result.folder / "round_2/learn/agent")
    model, ids = AutoModelForCausalLM.from_pretrained(result.folder / "model"), torch.tensor([[0, 1]])
    expected = policy.language_model.model(input_ids=ids).logits
    torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)


def test_the_model_of_the_last_round_is_written_as_a_run_writes_its_own(unbroken: LoopResult) -> None:
    written = json.loads((unbroken.folder / "model" / "generation_config.json").read_text())
    env = make_vec_env(SETTINGS["env"], 1)
    assert written["eos_token_id"] == env.get_attr("episodes", 0)[0].ends
    assert written["max_new_tokens"] == env.get_attr("max_new_tokens", 0)[0]


def test_people_are_asked_about_the_policy_of_the_round_before(unbroken: LoopResult) -> None:
    snapshot = json.loads((unbroken.folder / "round_2/ask/judgements.json").read_text())
    assert [item["policy"] for item in snapshot["items"]] == ["round_0"] * 12 + ["round_1"] * 12
    assert {item["meta"]["loop"] for item in snapshot["items"]} == {(unbroken.folder / "run_id").read_text().strip()}


def test_one_tensorboard_run_shows_all_rounds(unbroken: LoopResult) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(unbroken.folder))
    board.Reload()
    tags = board.Tags()["scalars"]
    steps = {tag: [event.step for event in board.Scalars(tag)] for tag in tags}
    assert steps["loop/round"] == steps["loop/token-bandit"] == steps["loop/kl"] == [0, 192, 384]
    assert steps["loop/accuracy_fresh"] == [384]
    assert steps["rlhf/reward"] == [96, 192, 288, 384]


def test_the_report_says_what_the_rounds_came_to(unbroken: LoopResult, tmp_path: Path) -> None:
    text = (unbroken.folder / "report.md").read_text()
    assert "72 judgements, 384 tokens of RL" in text
    assert f"{unbroken.metrics[2]['estimates']['token-bandit']['mean']:.3f} ± " in text
    assert "planted spammers found" in text
    assert (unbroken.folder / unbroken.report["agent"] / "manifest.json").is_file()
    assert (unbroken.folder / unbroken.report["reward_model"] / "config.json").is_file()
    plot_rounds(unbroken.report, tmp_path / "loop.png")
    assert (tmp_path / "loop.png").read_bytes().startswith(b"\x89PNG")


def test_what_models_wrote_stays_inert_in_the_report(unbroken: LoopResult) -> None:
    report = json.loads(json.dumps(unbroken.report))
    report["rounds"][0]["samples"][0]["completion"] = "<script>alert(1)</script> | ![x](y) \u202e"
    text = markdown(report)
    assert "<script>" not in text
    assert "![x]" not in text
    assert "\u202e" not in text


def test_a_finished_run_has_nothing_left_to_do(unbroken: LoopResult, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a step runs again")

    monkeypatch.setattr(stepping, "atomic_folder", refuse)
    before = comparable(unbroken.folder)
    go_on(unbroken.folder)
    assert comparable(unbroken.folder) == before


CHILD = """
import os, signal, sys
from importlib import import_module

target, number, when, *flags = sys.argv[1:]
path, _, name = target.partition(":")
*owner, attribute = name.split(".")
place = import_module(path)
for part in owner:
    place = getattr(place, part)
original, calls = getattr(place, attribute), 0

def counting(*args, **kwargs):
    global calls
    calls += 1
    if calls == int(number) and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*args, **kwargs)
    if calls == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(place, attribute, counting)
from agents.cli import app
app(["loop", *flags])
"""


def kill_at(folder: Path, target: str, number: int, when: str) -> None:
    """Let a process go on with a run until it is killed at the n-th call of a function."""
    arguments = [target, str(number), when, "--resume", str(folder)]
    done = run_python(f"import sys\nsys.argv[1:] = {arguments}\n{CHILD}", Path.cwd())
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def start(folder: Path) -> Path:
    """The folder of a run that was stopped before it did anything."""
    settings = with_defaults(config(folder))
    run_folder = settings.folder()
    run_folder.mkdir(parents=True)
    (run_folder / "config.json").write_text(settings.model_dump_json())
    return run_folder


def test_a_run_that_is_killed_comes_to_the_same(unbroken: LoopResult, tmp_path: Path) -> None:
    """While annotators are at work."""
    folder = start(tmp_path)
    kill_at(folder, "rlhf_envs.feedback.store.store:FeedbackStore.submit", 17, "after")
    assert (folder / "round_1/generate").is_dir()
    assert not (folder / "round_1/ask").exists()
    go_on(folder)
    assert_same_run(folder, unbroken)


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_step_comes_to_the_same(unbroken: LoopResult, tmp_path: Path) -> None:
    folder = start(tmp_path)
    for target, number, when in [
        ("agents.saving.bundle:save", 1, "after"),  # the agent of the start is in no step's folder yet
        ("agents.experiments.loop.steps:evaluate", 1, "after"),
        ("agents.experiments.loop.steps:generate_in", 1, "after"),
        ("rlhf_envs.feedback.store.store:FeedbackStore.add_items", 1, "after"),  # asked, and the loop does not know it
        ("rlhf_envs.feedback.store.store:FeedbackStore.claim", 9, "after"),  # a lease of a process that is no more
        ("rlhf_envs.feedback.store.store:FeedbackStore.submit", 5, "after"),
        ("agents.experiments.loop.feedback:replace_json", 1, "after"),
        ("rlhf_envs.preferences.fitting:normalise", 1, "after"),
        ("rlhf_envs.files:_put", 2, "after"),  # the whole fit, of which nobody has heard
        ("agents.algorithms.ppo:PPO.train", 2, "before"),
        ("agents.algorithms.ppo:PPO.collect_rollouts", 2, "after"),
        ("agents.saving.bundle:save", 1, "after"),
        ("agents.experiments.loop.loop:log_round", 2, "before"),
        ("rlhf_envs.feedback.store.store:FeedbackStore.submit", 36, "after"),  # the last answer of the second round
        ("agents.algorithms.ppo:PPO.train", 1, "after"),
        ("agents.experiments.loop.loop:write_report", 1, "before"),
    ]:
        kill_at(folder, target, number, when)
    go_on(folder)
    assert_same_run(folder, unbroken)


@pytest.mark.parametrize(("update", "tokens"), [(3, 288), pytest.param(4, 384, marks=pytest.mark.slow)])
def test_sigterm_in_rl_leaves_a_checkpoint_that_the_run_goes_on_from(
    update: int, tokens: int, unbroken: LoopResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first and in the last update of the second round."""
    from agents.algorithms.ppo import PPO

    train, updates = PPO.train, []

    def terminating(self: Any) -> None:
        updates.append(1)
        if len(updates) == update:
            os.kill(os.getpid(), signal.SIGTERM)
        train(self)

    monkeypatch.setattr(PPO, "train", terminating)
    with pytest.raises(RunInterrupted, match=rf"SIGTERM: .*round_2/checkpoints/{tokens}; .* rlhf loop --resume"):
        run(tmp_path)
    folder = tmp_path / "loop" / "run"
    assert not (folder / "round_2/learn").exists()
    go_on(folder)
    assert len(updates) == 4  # none is done twice
    assert_same_run(folder, unbroken)


def test_a_run_goes_on_from_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its judge is found there, and has the name that the round before has of it."""
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "judges").mkdir(parents=True)
    there.mkdir()
    (here / "judges/mine").symlink_to(resolve("tiny-reward"))
    monkeypatch.chdir(here)
    first = run_loop(config(Path("logs"), rounds=1, judge=["token-bandit", "judges/mine"]), say=lambda _: None)
    monkeypatch.chdir(there)
    folder = Path("../here/logs/loop/run")
    done = run_loop(LoopConfig.of_folder(folder, LoopConfig(rounds=2)), folder, say=lambda _: None)
    assert done.metrics[:2] == first.metrics
    assert done.report["judges"] == ["token-bandit", "judges/mine"]
    assert all("judges/mine" in metrics["estimates"] for metrics in done.metrics)


def test_ctrl_c_between_the_steps_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(feedback, "ask_simulated", interrupt)
    with pytest.raises(RunInterrupted, match=rf"SIGINT: .* {tmp_path}/loop/run; go on with: rlhf loop --resume"):
        run(tmp_path)


def test_a_damaged_step_runs_again_and_comes_to_the_same(
    unbroken: LoopResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(unbroken.folder, tmp_path / "copy")
    (folder / "round_2/learn/agent/policy.safetensors").write_bytes(b"damaged")
    go_on(folder)
    assert "round_2/learn runs again" in caplog.text
    assert_same_run(folder, unbroken)


def test_labels_are_found_again_when_the_beginning_is_damaged(unbroken: LoopResult, tmp_path: Path) -> None:
    """Round 0 runs again, and the next round is fitted to the labels of all rounds."""
    folder = shutil.copytree(unbroken.folder, tmp_path / "copy")
    (folder / "round_0/learn/figures.json").write_text("{}")
    result = go_on(folder, rounds=3)
    snapshot = json.loads((folder / "round_3/ask/judgements.json").read_text())
    assert [item["meta"]["round"] for item in snapshot["items"]] == [1] * 12 + [2] * 12 + [3] * 12
    assert result.metrics[3]["fitted_to"] + result.metrics[3]["held_out"] > 24


def test_a_run_whose_name_is_gone_does_not_go_on(unbroken: LoopResult, tmp_path: Path) -> None:
    folder = shutil.copytree(unbroken.folder, tmp_path / "copy")
    (folder / "run_id").unlink()
    with pytest.raises(ValueError, match=r"run_id is gone, the name of this run's items in the store: write it again"):
        go_on(folder)


def test_a_finished_run_takes_further_rounds(unbroken: LoopResult, tmp_path: Path) -> None:
    folder = shutil.copytree(unbroken.folder, tmp_path / "copy")
    result = go_on(folder, rounds=3, progress=False)
    assert [figures["tokens"] for figures in result.metrics] == [0, 192, 384, 576]
    assert comparable(folder)["rounds"][:3] == comparable(unbroken.folder)["rounds"]


@pytest.mark.parametrize("algo", ["dpo", pytest.param("kto", marks=pytest.mark.slow)])
def test_dpo_and_kto_learn_from_the_pairs_of_all_rounds_so_far(
    algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the model of before the first round, and a run that is stopped in the second goes on with its pairs."""
    learned: list[list[dict[str, Any]]] = []
    monkeypatch.setattr(OfflinePreferences, "set_data", spy(learned, OfflinePreferences.set_data))
    settings: dict[str, Any] = dict(algo=algo, kl_target=None, hyperparams=dict(batch_size=48), aggregate="soft")
    result = run(tmp_path, **settings)
    _, one, two = (figures["tokens"] for figures in result.metrics)
    assert 150 <= one <= two - 150
    first, second = ({(row["prompt"], row.get("chosen", row.get("completion"))) for row in rows} for rows in learned)
    assert 1 < len(first) < len(second) and first < second
    kl = [figures["estimates"]["kl"]["mean"] for figures in result.metrics]
    assert kl[0] == pytest.approx(0, abs=1e-4)
    assert kl[2] != kl[1] != kl[0]
    folder = shutil.copytree(result.folder, tmp_path / "copy")
    shutil.rmtree(folder / "round_2/learn")
    shutil.rmtree(folder / "round_2/evaluate")
    go_on(folder, progress=False)
    assert comparable(folder)["rounds"] == comparable(result.folder)["rounds"]


def spy(calls: list[Any], method: Any) -> Any:
    """The method, which notes what it is given."""

    def noted(agent: Any, data: Any) -> Any:
        calls.append(data)
        return method(agent, data)

    return noted


def test_an_ensemble_is_pessimistic_and_chooses_what_to_ask(tmp_path: Path) -> None:
    """The pairs of the second round are those about which the members of the first differ most, of three times more."""
    from rlhf_envs.preferences.queries import disagreement
    from rlhf_envs.rewards.ensemble import RewardEnsemble

    result = run(tmp_path, members=2, pessimism=1.0, query="disagreement", pool=3, algo="a2c", hyperparams={})
    assert result.metrics[2]["drawn"] == 40 > 3 * 12
    ensemble = RewardEnsemble(result.folder / "round_1/fit/proxy")
    sample = result.metrics[1]["samples"][0]
    members = ensemble.member_scores([sample["prompt"]], [sample["completion"]])[:, 0]
    assert sample["reward"] == pytest.approx(members.mean() - members.std(), abs=1e-5)
    asked = [json.loads((result.folder / f"round_{n}/generate/pairs.json").read_text()) for n in (1, 2)]

    def difference(pairs: list[dict[str, Any]]) -> float:
        scores = [
            ensemble.member_scores([p["prompt"] for p in pairs], [p["completions"][side] for p in pairs])
            for side in (0, 1)
        ]
        return float(disagreement(np.stack(scores, axis=-1) / ensemble.gain).mean())

    assert difference(asked[1]) > difference(asked[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(people=20), "people=20 is more than labels=12"),
        (dict(annotators=0), "nobody labels 12 of the 12 pairs; .*people=12"),
        (dict(overlap=5), "more than annotators=4"),
        (dict(pessimism=1.0), "members is 1, take at least 2"),
        (dict(query="disagreement"), "needs an ensemble: members is 1"),
    ],
)
def test_what_cannot_be_asked_is_said_at_once(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(env="rlhf/Nothing-v0"), "unknown environment"),
        (
            dict(env="rlhf/Mixture-v0"),
            "each task of a mixture has its own reward; name what its pairs are judged by, --sc",
        ),
        (dict(scorer="nothing"), "unknown reward 'nothing'"),
        (dict(judge=["nothing"]), "unknown reward 'nothing'"),
        (dict(algo="nothing"), "unknown algorithm 'nothing'"),
        (dict(reward_model="nothing"), "nothing"),
    ],
)
def test_a_wrong_name_leaves_no_folder(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **settings)
    assert list(tmp_path.iterdir()) == []


def test_the_task_names_the_scorer_and_the_judges() -> None:
    settings = with_defaults(LoopConfig())
    assert (settings.scorer, settings.judge) == ("gold", ["gold", "tiny-reward"])
    assert with_defaults(settings) == settings


def test_a_table_for_any_environment_gives_no_argument_without_a_use(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gym.spec("rlhf/TokenBandit-v0")
    monkeypatch.setitem(gym.registry, "loop/Own-v0", replace(spec, id="loop/Own-v0"))
    found = with_defaults(LoopConfig(env="loop/Own-v0", algo="online_dpo"))
    assert "kl_coef" not in found.agent_kwargs()
    assert "kl_coef" in with_defaults(LoopConfig(env="loop/Own-v0", algo="rloo")).agent_kwargs()


def test_where_people_label_all_nobody_is_simulated() -> None:
    """So the report does not speak of a scorer, of planted spammers, or of labels that are right by it."""
    assert with_defaults(LoopConfig(people=200, labels=200)).annotators == 0
    assert with_defaults(LoopConfig(people=199, labels=200)).annotators == 10


def test_a_run_goes_on_as_it_was_configured(unbroken: LoopResult, tmp_path: Path) -> None:
    assert LoopConfig.of_folder(unbroken.folder) == unbroken.config
    assert LoopConfig.of_folder(unbroken.folder, LoopConfig(labels=12, rounds=5)).rounds == 5
    with pytest.raises(ValueError, match=r"--labels 13 with --resume: the run in .* has 12; leave the flag out"):
        LoopConfig.of_folder(unbroken.folder, LoopConfig(labels=13))
    with pytest.raises(ValueError, match=r"no run's folder, it has no config\.json"):
        LoopConfig.of_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"algo": "ppo"}))
    with pytest.raises(ValueError, match="is not the configuration of a loop: it has no rounds"):
        LoopConfig.of_folder(tmp_path)


def test_no_held_out_prompt_is_fitted_to(unbroken: LoopResult) -> None:
    folder = unbroken.folder / "round_2/fit/proxy"
    held_out = [json.loads(line) for line in (folder / "held_out.jsonl").read_text().splitlines()]
    snapshot = json.loads((unbroken.folder / "round_2/ask/judgements.json").read_text())
    prompts = {item["id"]: item["prompt"] for item in snapshot["items"]}
    fitted = prompts.keys() - {row["item_id"] for row in held_out}
    assert len(held_out) == unbroken.metrics[2]["held_out"]
    assert len(fitted) == unbroken.metrics[2]["fitted_to"]
    assert not {prompts[i] for i in fitted} & {row["prompt"] for row in held_out}
