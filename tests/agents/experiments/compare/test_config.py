"""What a comparison may be: files, flags, variants, coefficients, and what is refused before anything loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agents import registry
from agents.cli import app
from agents.cli.compare import CompareFlags, _read
from agents.experiments.compare.config import CompareConfig, join_existing
from agents.experiments.compare.plan import plan
from agents.saving.folders import CONFIG

BANDIT = "rlhf/TokenBandit-v0"


def config(tmp_path: Path, **given: Any) -> CompareConfig:
    return CompareConfig(**{"env": BANDIT, "algos": ["ppo", "a2c"], "seeds": 2, "folder": str(tmp_path / "c"), **given})


def rlhf(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["compare", *arguments], env={"COLUMNS": "400"})


SETTINGS = {
    "env": BANDIT,
    "algos": ["ppo", "a2c", "ppo-long"],
    "seeds": 3,
    "tokens": 960,
    "kl_coefs": [0.1, 1.0],
    "overrides": {"ppo-long": {"algo": "ppo", "n_epochs": 4}},
}
TOML = """
env = "rlhf/TokenBandit-v0"
algos = ["ppo", "a2c", "ppo-long"]
seeds = 3
tokens = 960
kl_coefs = [0.1, 1.0]
[overrides.ppo-long]
algo = "ppo"
n_epochs = 4
"""
YAML = """
env: rlhf/TokenBandit-v0
algos: [ppo, a2c, ppo-long]
seeds: 3
tokens: 960
kl_coefs: [0.1, 1.0]
overrides:
  ppo-long: {algo: ppo, n_epochs: 4}
"""


@pytest.mark.parametrize(("name", "text"), [("a.toml", TOML), ("a.yaml", YAML), ("a.json", json.dumps(SETTINGS))])
def test_a_file_says_what_flags_say_and_flags_come_before_it(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    found = _read(CompareFlags(config=str(tmp_path / name), seeds=4))
    flags = "ppo,a2c,ppo-long"
    overrides = ["ppo-long.algo:ppo", "ppo-long.n_epochs:4"]
    given = CompareConfig(env=BANDIT, algos=flags, seeds=4, tokens=960, kl_coefs="0.1,1", overrides=overrides)  # type: ignore[arg-type]
    assert found == given
    assert found == CompareConfig(**{**SETTINGS, "seeds": 4})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "tokens = ", "a.toml: Invalid value (at end of document)"),
        ("a.yaml", "tokens: [1", "a.yaml: line 1: not valid YAML: expected"),
        ("a.yaml", "seeds: 2\nseeds: 3", "a.yaml: line 2: not valid YAML: found duplicate key"),
        ("a.yaml", "tokns: 3", "unknown setting 'tokns'; did you mean 'tokens'?"),
        ("a.yaml", "- 3", "expected names and values"),
        ("a.yaml", "seeds: 0", "seeds: Input should be greater than or equal to 1 (got 0)"),
        ("a.txt", "seeds: 0", "expected a .toml, .yaml or .json file"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    result = rlhf("--config", str(tmp_path / name), "-f", str(tmp_path / "c"))
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--algos", "ppo,a3c"], "unknown algorithm 'a3c': did you mean 'a2c'?"),
        (["--algos", "ppo,a2c,ppo"], "ppo: given twice"),
        (["--algos", "ppo", "--kl-coefs", "0.1,0.1"], "0.1: given twice"),
        (["--algos", "ppo", "--seeds", "0"], "--seeds: Input should be greater than or equal to 1"),
        (["--algos", "ppo", "--override", "ppo.n_epoch:3"], "ppo takes no argument 'n_epoch'; nearest: n_epochs"),
        (
            ["--algos", "ppo", "-params", "learning_rat:3"],
            "takes no argument 'learning_rat'; nearest: learning_rate",
        ),
        (["--algos", "ppo", "--override", "poo.n_epochs:3"], "overrides of 'poo': did you mean 'ppo'?"),
        (["--algos", "ppo", "--override", "ppo.temperature:2"], "ppo: temperature is equal for all of a comparison"),
        (["--algos", "ppo", "--override", "ppo.seed:2"], "ppo: seed is equal for all of a comparison"),
        (["--algos", "ppo", "--kl-coefs", "1", "--override", "ppo.kl_target:2"], "do not go with --kl-coefs"),
        (["--algos", "ppo", "--kl-coefs", "-1"], "a coefficient is a number of at least 0"),
        (["--algos", "ppo", "--metric", "glod"], "unknown metric 'glod' for rlhf/TokenBandit-v0: there are reward"),
        (["--algos", "../ppo"], "'../ppo' is the name of a folder too"),
        (["--algos", "ppo,sft", "-params", "kl_coef:0.2"], "sft: kl_coef=0.2: SFT makes no use of it; leave it out"),
        (["--algos", "ppo,sft", "-params", "sft_coef:1"], "sft: sft_coef=1.0: SFT makes no use of it; leave it out"),
        (
            ["--algos", "ppo,online_dpo", "--kl-coefs", "0,0.1"],
            "online_dpo: --kl-coefs [0.0, 0.1]: beta weighs its KL penalty",
        ),
        (["--algos", "rloo", "--override", "rloo.group_size:1"], "rloo: group_size=1: RLOO compares completions"),
        (["--algos", "rloo", "--n-envs", "6"], "rloo: group_size=8 with 6 environments: groups have to divide"),
        (["--algos", "awr", "--n-envs", "6", "-params", "group_size:4"], "awr: group_size=4 with 6 environments"),
        (["--algos", "ppo", "--env", "rlhf/TokenBandit-v9"], "unknown environment 'rlhf/TokenBandit-v9'"),
        ([], "algos: name the algorithms to compare"),
    ],
)
def test_wrong_flags_are_refused_before_anything_loads(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.experiments.processes.subprocess.Popen", None)
    result = rlhf("--env", BANDIT, *flags, "-f", str(tmp_path / "c"))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "c").exists()


def test_algorithms_are_found_in_any_case(tmp_path: Path) -> None:
    overrides = {"PPO": {"n_epochs": 3}, "mine": {"algo": "Rloo"}}
    found = config(tmp_path, algos=["PPO", "A2c", "mine"], overrides=overrides)
    assert found.algos == ["ppo", "a2c", "mine"]
    assert found.overrides == {"ppo": {"n_epochs": 3}, "mine": {"algo": "rloo"}}
    with pytest.raises(ValueError, match="ppo: given twice"):
        config(tmp_path, algos=["ppo", "PPO"])


def test_every_arm_has_every_seed_and_what_is_equal(tmp_path: Path) -> None:
    runs = plan(config(tmp_path, tokens=960, n_envs=16, temperature=0.5, overrides={"a2c": {"learning_rate": 0.5}}))
    assert [run.name for run in runs] == ["ppo/seed_00", "a2c/seed_00", "ppo/seed_01", "a2c/seed_01"]
    for run in runs:
        resolved = run.arm.resolved
        assert (resolved.n_timesteps, resolved.n_envs, run.config.seed) == (960, 16, run.seed)
        assert resolved.hyperparams["temperature"] == 0.5
        assert resolved.learning_rate == (0.5 if run.arm.algo == "a2c" else 3e-3)


def test_an_arm_may_learn_data_beside_its_reward(tmp_path: Path) -> None:
    overrides = {"ptx": {"algo": "ppo", "sft_coef": 0.5, "sft_data": "good.jsonl"}}
    plain, ptx = plan(config(tmp_path, algos=["ppo", "ptx"], seeds=1, overrides=overrides))
    assert (ptx.config.sft_coef, ptx.config.sft_data) == (0.5, "good.jsonl")
    assert (plain.config.sft_coef, plain.config.sft_data) == (None, None)


def test_decoding_is_one_where_the_table_has_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agents.training import hyperparams

    table = {"ppo": dict(temperature=0.7, top_k=9), "a2c": dict(temperature=1.3, top_p=0.5)}
    monkeypatch.setattr(hyperparams, "_our_settings", {BANDIT: table}.__getitem__)
    for run in plan(config(tmp_path)):
        found = run.arm.resolved.hyperparams
        assert {name: found.get(name) for name in ("temperature", "top_k", "top_p")} == {
            "temperature": 0.7,
            "top_k": 9,
            "top_p": None,
        }


def test_coefficients_make_arms_whose_controller_is_off(tmp_path: Path) -> None:
    env = "rlhf/Sentiment-v0"  # where the table steers the coefficient to a target
    runs = plan(config(tmp_path, env=env, algos=["ppo"], seeds=1, kl_coefs=[1.0, 0.05, 10.0]))
    assert [run.arm.name for run in runs] == ["ppo-kl0.05", "ppo-kl1.0", "ppo-kl10.0"]
    resolved = [run.arm.resolved for run in runs]
    assert [found.kl_coef for found in resolved] == [0.05, 1.0, 10.0]
    assert {found.kl_target for found in resolved} == {None}
    assert plan(config(tmp_path, env=env, algos=["ppo"]))[0].arm.resolved.kl_target is not None


def test_an_algorithm_that_takes_no_coefficient_has_one_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._ALGORITHMS, "dqn", "stable_baselines3:DQN")
    runs = plan(config(tmp_path, algos=["dqn", "a2c"], seeds=1, kl_coefs=[0.1, 1.0]))
    assert [run.name for run in runs] == ["dqn/seed_00", "a2c-kl0.1/seed_00", "a2c-kl1.0/seed_00"]
    assert runs[0].config.save_freq == 0  # bundles hold no off-policy agents


def existing(tmp_path: Path, **given: Any) -> CompareConfig:
    """A comparison's folder as it is before its first run."""
    saved = config(tmp_path, **given)
    saved.path.mkdir(parents=True)
    (saved.path / CONFIG).write_text(saved.model_dump_json())
    return saved


def test_an_algorithm_that_decodes_in_its_own_way_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_top_p.py").write_text(
        "from agents.algorithms.ppo import PPO\n\n\nclass Own(PPO):\n"
        "    def __init__(self, *args, top_p=0.9, **kwargs):\n        super().__init__(*args, **kwargs)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry._ALGORITHMS, "own", "own_top_p:Own")
    runs = plan(config(tmp_path, algos=["own", "ppo"], seeds=1, top_p=0.8, temperature=0.5))
    assert [run.arm.own_decoding for run in runs] == [("top_p",), ()]
    assert [run.config.hyperparams.get("top_p") for run in runs] == [None, 0.8]
    assert [run.config.hyperparams["temperature"] for run in runs] == [0.5, 0.5]


def test_q_learners_are_said_to_cut_the_reference_in_their_own_way(tmp_path: Path) -> None:
    def own(**given: Any) -> list[tuple[str, ...]]:
        return [run.arm.own_decoding for run in plan(config(tmp_path, algos=["dqn", "qrdqn", "ppo"], seeds=1, **given))]

    assert own() == [("top_k",), ("top_k",), ()]
    assert own(top_k=5) == [(), (), ()]


def test_a_folder_takes_more_algorithms_seeds_and_coefficients(tmp_path: Path) -> None:
    existing(tmp_path, algos=["ppo"], tokens=960, kl_coefs=[0.1], overrides={"ppo": {"n_epochs": 3}})
    joined = join_existing(CompareConfig(folder=str(tmp_path / "c"), algos=["a2c"], seeds=4, kl_coefs=[1.0]))
    assert (joined.env, joined.tokens) == (BANDIT, 960)
    assert (joined.algos, joined.seeds, joined.kl_coefs) == (["ppo", "a2c"], 4, [0.1, 1.0])
    assert joined.overrides == {"ppo": {"n_epochs": 3}}
    assert join_existing(CompareConfig(folder=str(tmp_path / "c"))).seeds == 2


@pytest.mark.parametrize(
    "other",
    [
        {"env": "rlhf/IncreasingNumbers-v0"},
        {"tokens": 961},
        {"model": "tiny"},
        {"temperature": 0.9},
        {"test_episodes": 4},
        {"test_split": "validation"},
        {"evaluations": 3},
        {"env_kwargs": {"max_new_tokens": 2}},
        {"hyperparams": {"gamma": 0.9}},
    ],
)
def test_other_environments_or_budgets_are_refused(other: dict[str, Any], tmp_path: Path) -> None:
    existing(tmp_path, tokens=960)
    (name,) = other
    with pytest.raises(ValueError, match=f"{name}=.* one comparison has one environment, budget and evaluation"):
        join_existing(config(tmp_path, **{"tokens": 960, **other}))


def test_a_variant_that_changes_needs_a_label_of_its_own(tmp_path: Path) -> None:
    existing(tmp_path)
    with pytest.raises(ValueError, match=r"ppo is in the comparison .* give the variant a label of its own"):
        join_existing(config(tmp_path, overrides={"ppo": {"n_epochs": 7}}))


def test_a_run_with_other_settings_than_now_is_refused(tmp_path: Path) -> None:
    run = plan(config(tmp_path))[0]
    run.folder.mkdir(parents=True)
    (run.folder / CONFIG).write_text(run.arm.resolved.model_dump_json())
    plan(config(tmp_path))
    with pytest.raises(ValueError, match=r"the run in .* has learning_rate=0.003, and now it would be 0.5"):
        plan(config(tmp_path, overrides={"ppo": {"learning_rate": 0.5}}))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="exists and is no comparison"):
        join_existing(config(tmp_path))


def test_a_coefficient_goes_to_what_weighs_an_algorithms_kl_penalty(tmp_path: Path) -> None:
    """Of online DPO `beta`; nothing of the baselines."""
    runs = plan(config(tmp_path, algos=["online_dpo", "sft", "best_of_n"], seeds=1, kl_coefs=[0.1, 1.0]))
    assert [run.arm.name for run in runs] == ["online_dpo-kl0.1", "online_dpo-kl1.0", "sft", "best_of_n"]
    resolved = [run.arm.resolved for run in runs]
    assert [found.hyperparams.get("beta") for found in resolved[:2]] == [0.1, 1.0]
    assert {found.kl_coef for found in resolved} == {None}
    with pytest.raises(ValueError, match="online_dpo: beta do not go with kl_coefs"):
        plan(config(tmp_path, algos=["online_dpo"], kl_coefs=[0.1], overrides={"online_dpo": {"beta": 1.0}}))


def test_names_of_runs_sort_as_text(tmp_path: Path) -> None:
    """TensorBoard lists them so."""
    names = [run.name for run in plan(config(tmp_path, algos=["ppo"], seeds=12, kl_coefs=[0.05, 0.35, 1.0]))]
    by_number = [f"ppo-kl{value}/seed_{seed:02d}" for value in (0.05, 0.35, 1.0) for seed in range(12)]
    assert sorted(names) == by_number


def test_finished_runs_keep_their_names_when_others_join(tmp_path: Path) -> None:
    few = plan(config(tmp_path, algos=["ppo"], seeds=5, kl_coefs=[0.1, 1.0]))
    many = plan(config(tmp_path, algos=["ppo"], seeds=12, kl_coefs=[1e-7, 2e-7, 0.05, 0.1, 1.0, 10.0]))
    assert {run.name for run in few} < {run.name for run in many}
    assert len({run.name for run in many}) == 12 * 6


def test_what_every_run_would_fail_of_is_refused_before_any(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tokens=2 is less than one episode of 3"):
        plan(config(tmp_path, tokens=2))
    with pytest.raises(ValueError, match="grpo: group_size=4 with 6 environments: groups have to divide the batch"):
        plan(config(tmp_path, algos=["ppo", "grpo"], n_envs=6, overrides={"grpo": {"group_size": 4}}))


def test_data_without_prompts_to_evaluate_on_is_refused_before_anything_runs(tmp_path: Path) -> None:
    found = config(tmp_path, env="rlhf/Prompts-v0", env_kwargs={"data": [{"prompt": "a"}, {"prompt": "b"}]})
    with pytest.raises(ValueError, match=r"2 different prompts are too few for a test split.*--test-split train"):
        plan(found)


def test_tokens_have_the_same_flags_as_in_rlhf_train() -> None:
    for flag in ("-n", "--tokens", "--n-timesteps"):
        assert "--tokens: Input should be greater than 0" in rlhf(flag, "0").output
