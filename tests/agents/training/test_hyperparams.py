"""Settings: one YAML file an environment, read as plain data, every key checked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from agents.cli import app
from agents.training import hyperparams
from agents.training.config import TrainConfig
from agents.training.hyperparams import check_keys, default_hyperparams, read_settings, write_section

BANDIT = "rlhf/TokenBandit-v0"
FILES = sorted(hyperparams.FOLDER.glob("*.yml"))


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_every_key_of_our_files_is_an_argument_of_its_algorithm(file: Path) -> None:
    environments, sections = read_settings(file)
    assert environments or file.name == "any.yml"
    for section, settings in sections.items():
        check_keys(file, section, settings, "ppo" if section == "any" else section)
        assert settings["n_timesteps"] > 0


def test_defaults_are_what_the_file_says_and_a_copy() -> None:
    raw = YAML(typ="safe").load((hyperparams.FOLDER / "TokenBandit-v0.yml").read_text())
    found = default_hyperparams(BANDIT, "ppo")
    assert found == raw["ppo"]
    found["n_envs"] = 1
    assert default_hyperparams(BANDIT, "ppo") == raw["ppo"]
    human = default_hyperparams("rlhf/HumanSentiment-v0", "ppo")
    assert human == default_hyperparams("rlhf/Sentiment-v0", "ppo") != found


def test_the_file_of_the_environment_alone_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    monkeypatch.setattr(hyperparams, "read_settings", lambda file: (parsed.append(file.name), read_settings(file))[1])
    hyperparams._our_settings.cache_clear()
    assert default_hyperparams(BANDIT, "ppo")["n_envs"] > 0 and parsed == ["TokenBandit-v0.yml"]


def test_a_users_file_replaces_ours_in_whole(tmp_path: Path) -> None:
    file = tmp_path / "my.yml"
    file.write_text("ppo:\n  n_timesteps: 30\n  learning_rate: 1e-4\nany: {n_envs: 3}\n")
    config = TrainConfig(env=BANDIT, settings=str(file)).resolved()
    assert (config.n_timesteps, config.learning_rate, config.n_envs, config.kl_coef) == (30, 1e-4, None, None)
    assert config.hyperparams == {}, "the batch_size of our file is not taken"
    assert TrainConfig(**config.model_dump()).resolved() == config
    assert default_hyperparams(BANDIT, "a2c", file) == {"n_envs": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ppo: {learning_rat: 1.0e-4}", "section 'ppo': ppo takes no 'learning_rat'; did you mean 'learning_rate'?"),
        ("pp0: {n_envs: 2}", "section 'pp0' is no algorithm; did you mean 'ppo'?"),
        ("a2c: {n_envs: 2}", "no section for 'ppo', nor 'any'; there are a2c"),
        ("ppo: 3", "section 'ppo': expected settings such as 'n_envs: 32', got 3"),
        ("ppo: {n_envs: 2, n_envs: 3}", 'line 1: not valid YAML: found duplicate key "n_envs"'),
        ("ppo: {n_envs: 2}\nppo: {n_envs: 3}", 'line 2: not valid YAML: found duplicate key "ppo"'),
        (
            "environments: [rlhf/Sentiment-v0]\nppo: {n_envs: 2}",
            "for rlhf/Sentiment-v0, and not for rlhf/TokenBandit-v0",
        ),
        ("environments: 3\nppo: {n_envs: 2}", "environments: expected a list of ids, got 3"),
        ("- ppo", "expected sections such as 'ppo:'"),
        ("ppo: [", "line 2: not valid YAML: expected the node content"),
        ("ppo: \x00", "not valid YAML: unacceptable character"),
        ("ppo: {normalize_advantage: no}", "section 'ppo': normalize_advantage: write true or false, not 'no'"),
        ("ppo: !!python/object/apply:os.getcwd []", "line 1: not valid YAML: could not determine a constructor"),
    ],
)
def test_a_wrong_file_names_file_section_key_and_the_nearest_name(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "my.yml"
    file.write_text(text + "\n")
    with pytest.raises(ValueError, match="settings ") as caught:
        default_hyperparams(BANDIT, "ppo", file)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file_is_one_line_on_the_command_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "--env", BANDIT, "--settings", "no.yml", "-f", str(tmp_path / "logs")])
    assert result.exit_code == 2
    assert result.stderr == "rlhf: settings no.yml: No such file or directory\n"
    assert not (tmp_path / "logs").exists()


def test_a_section_is_replaced_and_all_else_stays(tmp_path: Path) -> None:
    file = tmp_path / "my.yml"
    write_section(file, "ppo", {"learning_rate": 2e-5, "n_envs": 4}, "a first one: found")
    file.write_text("# mine\n" + file.read_text() + "\n# of a2c\na2c:\n  n_envs: 8  # eight\n")
    write_section(file, "ppo", {"n_envs": 16})
    write_section(file, "trpo", {"n_envs": 2})
    write_section(file, "a2c", {"n_envs": 9}, "nine")
    assert file.read_text() == (
        "# mine\nppo:\n  n_envs: 16\n\n# of a2c\na2c:\n  # nine\n  n_envs: 9\n\ntrpo:\n  n_envs: 2\n"
    )
    assert read_settings(file)[1] == {"ppo": {"n_envs": 16}, "a2c": {"n_envs": 9}, "trpo": {"n_envs": 2}}


def test_numbers_come_back_as_they_were_written(tmp_path: Path) -> None:
    settings = {"learning_rate": 3.1622776601683795e-05, "n_epochs": 3, "clip_range": 0.2, "normalize_advantage": False}
    write_section(tmp_path / "my.yml", "ppo", settings)
    assert read_settings(tmp_path / "my.yml")[1]["ppo"] == settings


@pytest.mark.parametrize("verb", ["train", "tune"])
def test_an_unknown_algorithm_is_named_before_torch_is_imported(verb: str) -> None:
    code = (
        "import sys\nfrom agents.cli import app\n"
        f"try:\n    app(['{verb}', '--algo', 'pp0'])\nexcept SystemExit as end:\n    print(end.code)\n"
        "print(sorted({'torch', 'transformers', 'stable_baselines3', 'optuna'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["2", "[]"]
    assert "unknown algorithm 'pp0': did you mean 'ppo'?" in done.stderr


def test_rows_of_the_users_data_are_not_picked_by_a_column_of_the_bundled_data() -> None:
    bundled = TrainConfig(env="rlhf/Prompts-v0", algo="sft")
    assert bundled.resolved().hyperparams["where"] == {"label": 1}
    own = TrainConfig(env="rlhf/Prompts-v0", algo="sft", env_kwargs={"data": "mine.jsonl"})
    assert "where" not in own.resolved().hyperparams
    picked = own.model_copy(update={"hyperparams": {"where": {"kind": "a"}}})
    assert picked.resolved().hyperparams["where"] == {"kind": "a"}
