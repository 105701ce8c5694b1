"""Settings from a file: what is typed comes before it, and nothing that it names is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.experiments.compare import compare
from agents.saving.provenance import write_settings
from agents.training.config import TrainConfig
from agents.training.config_file import read_config_file
from tests.agents.training.runs import BANDIT, rlhf


def read(path: Path, **given: Any) -> TrainConfig:
    return TrainConfig(**read_config_file(path, TrainConfig.model_fields, given))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.toml", 'env = "rlhf/TokenBandit-v0"\nseed = 4\n[hyperparams]\nn_epochs = 2\nbatch_size = 48\n'),
        ("run.yaml", "env: rlhf/TokenBandit-v0\nseed: 4\nhyperparams:\n  n_epochs: 2\n  batch_size: 48\n"),
        ("run.json", '{"env": "rlhf/TokenBandit-v0", "seed": 4, "hyperparams": {"n_epochs": 2, "batch_size": 48}}'),
    ],
)
def test_what_is_typed_comes_before_the_file(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read(tmp_path / name) == TrainConfig(env=BANDIT, seed=4, hyperparams={"n_epochs": 2, "batch_size": 48})
    found = read(tmp_path / name, seed=5, hyperparams={"n_epochs": 3})
    assert (found.seed, found.hyperparams) == (5, {"n_epochs": 3, "batch_size": 48})


def test_a_runs_configuration_gives_the_run_back(tmp_path: Path) -> None:
    config = TrainConfig(env=BANDIT, algo="rloo", n_timesteps=960, kl_target=0.3).resolved()
    write_settings(tmp_path / "config.json", config.model_dump(mode="json"))
    assert read(tmp_path / "config.json").resolved() == config


def test_the_short_flags_are_settings_too(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('data = "my.jsonl"\nreward = "tiny-reward"\n[column]\nprompt = "question"\n')
    found = read(tmp_path / "my.toml")
    assert found.env == "rlhf/Prompts-v0"
    assert found.env_kwargs == {"data": "my.jsonl", "reward": "tiny-reward", "columns": {"prompt": "question"}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sed": 1}, "config.json: unknown setting 'sed'; did you mean 'seed'?"),
        ({"rounds": 3}, "config.json: unknown setting 'rounds'"),
        ({"seed": -1}, "config.json: seed: Input should be greater than or equal to 0 (got -1)"),
        ({"hyperparams": ["n_epochs"]}, "'n_epochs' is no key:value pair"),
        ({"env": "evil:my/Evil-v0"}, "'evil:my/Evil-v0' is not imported"),
        ({"reward": "evil:score"}, "'evil:score' is not imported"),
        ({"algo": "evil:Evil"}, "unknown algorithm 'evil:Evil'"),
        ({"model": "evil:Evil"}, "evil:Evil"),
        ({"settings": "evil.py"}, "settings evil.py: "),
        ({"hyperparams": {"rollout_buffer_class": "evil:Evil"}}, "evil:Evil"),
        ({"env_kwargs": {"reward": "evil:score"}}, "give it again, --reward evil:score"),
        ([1], "config.json: expected names and values"),
    ],
)
def test_a_wrong_file_is_answered_in_one_line(
    settings: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('imported').touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(settings))
    result = rlhf("train", "--config", "config.json", "--dry-run")
    assert result.exit_code == 2
    assert message in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "evil.py"]


@pytest.mark.parametrize(
    "settings",
    [
        {"algos": ["evil:Evil"]},
        {"algos": ["mine"], "overrides": {"mine": {"algo": "evil:Evil"}}},
        {"algos": ["ppo"], "hyperparams": {"rollout_buffer_class": "evil:Evil"}},
        {"algos": ["ppo"], "overrides": {"ppo": {"policy": "evil:Evil"}}, "metric": "evil:score"},
        {"algos": ["ppo"], "reward": "evil:score"},
    ],
)
def test_a_comparison_in_a_file_imports_nothing(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('imported').touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(compare, "_run_missing", lambda *_: pytest.fail("the file was not refused"))
    (tmp_path / "my.json").write_text(json.dumps({"env": BANDIT, "tokens": 96, "seeds": 1, **settings}))
    result = rlhf("compare", "--config", "my.json")
    assert result.exit_code == 2, result.exception
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.py", "my.json"]


def test_a_file_of_other_bytes_is_named(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_bytes(b"seed = 1 # \xff")
    with pytest.raises(ValueError, match=r"my\.toml: .*can't decode"):
        read(tmp_path / "my.toml")


def test_a_file_is_for_new_runs() -> None:
    result = rlhf("train", "--config", "a.json", "--resume", "logs/ppo/run")
    assert result.exit_code == 2
    assert "--config a.json with --resume" in result.stderr
