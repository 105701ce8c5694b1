"""Settings from a file: what is typed comes before it, and nothing that it names is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.experiments.compare import compare
from agents.experiments.loop.config import LoopConfig
from agents.experiments.loop.state import with_defaults
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


LOOP = {"env": BANDIT, "n_timesteps": 96, "labels": 8, "hyperparams": {"batch_size": 48}, "by": {"rating": "gold"}}
TUNE = {"env": BANDIT, "tokens": 192, "trials": 2, "hyperparams": {"batch_size": 48}}
EVALUATE = {"env": BANDIT, "n_episodes": 8, "split": "validation", "temperature": 0.5}
VERBS = {  # the words before the flags; where the verb begins to work; the settings of its file
    "loop": (["loop"], "agents.experiments.loop.loop.run_loop", LOOP),
    "tune": (["tune"], "agents.experiments.tune.search.tune", TUNE),
    "evaluate": (["evaluate", "tiny"], "agents.evaluation.evaluate.evaluate", EVALUATE),
}


@pytest.fixture(params=[*VERBS])
def verb(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that calls a verb with a file of settings and flags, and what the verb would work with."""
    for package in ("sqlalchemy", "crowdkit", "optuna"):
        pytest.importorskip(package)
    words, place, usual = VERBS[request.param]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('imported').touch()\n")
    work: dict[str, Any] = {}

    def stop(config: Any = None, *_: Any, **arguments: Any) -> None:
        work.update(arguments if config is None else config.model_dump())
        raise KeyboardInterrupt

    monkeypatch.setattr(place, stop)

    def call(settings: Any, *flags: str) -> tuple[Any, dict[str, Any]]:
        content = {**usual, **settings} if isinstance(settings, dict) else settings
        (tmp_path / "my.json").write_text(json.dumps(content))
        work.clear()
        return rlhf(*words, "--config", "my.json", *flags), {**work, "verb": request.param}

    return call


def test_loops_searches_and_evaluations_take_files_too_and_what_is_typed_comes_first(verb: Any) -> None:
    _, found = verb({"seed": 4})
    expected = {"loop": LOOP, "tune": TUNE, "evaluate": {"env_id": BANDIT, "n_episodes": 8, "temperature": 0.5}}
    assert found["seed"] == 4
    assert found.items() >= expected[found["verb"]].items()
    _, found = verb({"seed": 4, "env_kwargs": {"max_prompt_tokens": 9}}, "--seed", "5", "--env-kwargs", "split:test")
    assert (found["seed"], found["env_kwargs"]) == (5, {"max_prompt_tokens": 9, "split": "test"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sed": 1}, "my.json: unknown setting 'sed'; did you mean 'seed'?"),
        ({"seed": -1}, "my.json: seed: Input should be greater than or equal to 0 (got -1)"),
        ({"env": "evil:my/Evil-v0"}, "'evil:my/Evil-v0' is not imported"),
        ({"env_kwargs": {"reward": "evil:score"}}, "give it again, --reward evil:score"),
        ([1], "my.json: expected names and values"),
    ],
)
def test_their_wrong_files_are_answered_in_one_line_too(settings: Any, message: str, verb: Any, tmp_path: Path) -> None:
    result, work = verb(settings)
    assert (result.exit_code, len(work)) == (2, 1)
    assert message in result.stderr
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("verb", "settings", "message", "flags"),
    [
        ("loop", {"scorer": "evil:score"}, "give it again, --scorer evil:score", ("--scorer", "gold")),
        ("loop", {"judge": ["evil:score"]}, "give it again, --judge evil:score", ("--judge", "gold")),
        ("loop", {"by": {"rating": "evil:score"}}, "give it again, --by evil:score", ("--by", "rating:gold")),
        ("loop", {"store": "postgresql://x@y/z"}, "give it again, --store", ("--store", "my.db")),
        ("loop", {"from_serving": "postgresql://x@y/z"}, "give it again, --from-serving", ("--from-serving", "my.db")),
        ("tune", {"metric": "evil:score"}, "give it again, --metric evil:score", ("--metric", "reward")),
        ("tune", {"storage": "mysql://x@y/z"}, "give it again, --storage", ("--storage", "sqlite:///my.db")),
        ("tune", {"ray_address": "there:6379"}, "give it again, --ray-address", ("--ray-address", "auto")),
        ("evaluate", {"env": None, "envs": ["evil:my/Evil-v0"]}, "give them again, --envs evil:", ("--envs", BANDIT)),
        ("evaluate", {"judge": ["evil:score"]}, "give it again, --judge evil:score", ("--judge", "gold")),
        ("evaluate", {"trust": True}, "give it again, --trust", ("--trust",)),
    ],
    indirect=["verb"],
)
def test_a_files_word_is_not_enough_for_imports_pickles_and_servers(
    verb: Any, settings: dict[str, Any], message: str, flags: tuple[str, ...], tmp_path: Path
) -> None:
    result, work = verb(settings)
    assert (result.exit_code, len(work)) == (2, 1)
    assert message in result.stderr
    result, work = verb(settings, *flags)
    assert len(work) > 1, result.output
    assert not (tmp_path / "imported").exists()


def test_a_file_of_a_loop_has_no_short_flags_of_data_and_is_for_new_loops(tmp_path: Path) -> None:
    (tmp_path / "my.json").write_text('{"data": "rows.jsonl"}')
    assert "unknown setting 'data'" in rlhf("loop", "--config", str(tmp_path / "my.json")).stderr
    result = rlhf("loop", "--config", "a.json", "--resume", "logs/loop/run")
    assert result.exit_code == 2
    assert "--config a.json with --resume" in result.stderr


@pytest.mark.parametrize("verb", ["loop"], indirect=True)
def test_a_loops_configuration_gives_the_loop_back(verb: Any, tmp_path: Path) -> None:
    config = with_defaults(LoopConfig(**LOOP, scorer="token-bandit", store="my.db"))
    write_settings(tmp_path / "config.json", config.model_dump(mode="json"))
    _, work = verb(json.loads((tmp_path / "config.json").read_text()))
    assert LoopConfig(**{name: work[name] for name in LoopConfig.model_fields}) == config


@pytest.mark.parametrize("verb", ["evaluate"], indirect=True)
def test_an_evaluations_file_of_data_leaves_the_environment_to_the_run(verb: Any, tmp_path: Path) -> None:
    kwargs = {"data": "rows.jsonl", "reward": "repetition"}
    assert {"env_id": "rlhf/Prompts-v0", "env_kwargs": kwargs}.items() <= verb({"env": None, **kwargs})[1].items()
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/config.json").write_text(json.dumps({"algo": "ppo", "env": BANDIT}))
    assert verb({"env": None, **kwargs})[1]["env_id"] == BANDIT
