"""What a file may say of an environment, and what has to be given again."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import agents
from agents.experiments.loop.config import LoopConfig
from agents.saving.environment import remake_env
from agents.saving.untrusted import read_env_id, read_env_kwargs
from agents.training.config import TrainConfig
from agents.training.config_file import check_imports, read_config_file
from rlhf_envs.names import import_module

BANDIT, URL = "rlhf/TokenBandit-v0", "postgresql://u@host/db"


def test_what_is_registered_passes_and_what_is_given_again_is_left_to_the_caller(tmp_path: Path) -> None:
    kwargs = {"reward": str(tmp_path), "max_new_tokens": 4, "data": "my.jsonl"}
    assert read_env_id(BANDIT, "it") == BANDIT
    assert read_env_kwargs(kwargs, "it") == kwargs
    assert read_env_kwargs({**kwargs, "task": "m:T", "reward": "m:r"}, "it", {"task": "n:T", "reward": "n:r"}) == {
        "max_new_tokens": 4,
        "data": "my.jsonl",
    }


def test_a_module_passes_only_if_the_user_has_imported_it(tmp_path: Path) -> None:
    file = tmp_path / "seen_by_the_user.py"
    file.touch()
    with pytest.raises(ValueError, match=r"give it again, --env .*seen_by_the_user\.py:rlhf/TokenBandit-v0"):
        read_env_id(f"{file}:{BANDIT}", "it")
    import_module(str(file), "test")
    assert read_env_id(f"{file}:{BANDIT}", "it") == f"{file}:{BANDIT}"
    assert read_env_id(f"json:{BANDIT}", "it") == f"json:{BANDIT}"
    with pytest.raises(ValueError, match="give it again, --env no_such_module:rlhf/TokenBandit-v0"):
        read_env_id(f"no_such_module:{BANDIT}", "it")


@pytest.mark.parametrize(
    ("kwargs", "flag"),
    [
        ({"reward": "m:r"}, "--reward m:r"),
        ({"reward_kwargs": {"a": ["m:r"]}}, """--env-kwargs 'reward_kwargs:{"a": ["m:r"]}'"""),
        ({"task": "m:T"}, "--env-kwargs task:m:T"),
        ({"reward_kwargs": {"store": URL}}, "--env-kwargs 'reward_kwargs:"),
    ],
)
def test_the_error_has_the_flag(kwargs: dict[str, Any], flag: str) -> None:
    with pytest.raises(ValueError, match="give it again") as error:
        read_env_kwargs(kwargs, "it")
    assert flag in str(error.value)


@pytest.mark.parametrize("follow_paths", [True, False])
def test_no_file_sends_an_agents_texts_to_a_server(follow_paths: bool) -> None:
    """Neither a bundle nor a run's folder: whoever wrote it would get the completions, and choose the prompts."""
    kwargs, own = {"base_url": "http://127.0.0.1:8000", "n_prompts": 4}, {"follow_paths": follow_paths}
    with pytest.raises(ValueError, match=r"give it again, --env-kwargs base_url:http://127\.0\.0\.1:8000"):
        read_env_kwargs(kwargs, "it", env_id="rlhf/OpenEnv-v0", **own)
    assert read_env_kwargs(kwargs, "it", {"base_url": "x"}, env_id="rlhf/OpenEnv-v0", **own) == {"n_prompts": 4}


@pytest.mark.parametrize(
    "kwargs",
    [
        {"data": "/etc/hostname"},
        {"reward": "human", "reward_kwargs": {"store": URL}},
        {"reward": "human", "reward_kwargs": {"store": "other.db"}},
        {"reward": "somebody/model"},
        {"reward": "hf:somebody/model@label"},
        {"reward": "clipped", "reward_kwargs": {"reward": "somebody/model@label"}},
        {"data": {"train": "/etc/hostname"}},
        {"model": "somebody/model"},
        {"reward": "human"},  # whose store is feedback.db
        {"reward": "Human", "reward_kwargs": {"overlap": 2}},
        {"reward": "clipped", "reward_kwargs": {"reward": "human"}},
        {"reward": "aspects", "reward_kwargs": {"aspects": {"human": {"weight": 1}}}},
    ],
)
def test_a_bundle_chooses_no_file_and_no_address(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is not followed where a bundle says so: pass the environment"):
        remake_env({"id": BANDIT, "num_envs": 1, "kwargs": kwargs})


@pytest.mark.parametrize("name", ["partner", "turn_reward"])
@pytest.mark.parametrize("address", ["m:f", "a.b:f", "./my run/m.py:f", "/tmp/a+b (2)/m.py:f", "a·b:f", "m:f·"])
def test_a_tasks_own_argument_imports_nothing_wherever_the_file_lies(name: str, address: str) -> None:
    with pytest.raises(ValueError, match="is not imported just because it names it: give it again"):
        read_env_kwargs({name: address}, "it", env_id="rlhf/Dialogue-v0")
    assert read_env_kwargs({name: address}, "it", {name: address}, env_id="rlhf/Dialogue-v0") == {}


@pytest.mark.parametrize(
    "kwargs", [{"partner": "somebody/model"}, {"turn_reward": "hf:somebody/model"}, {"turn_reward": "human"}]
)
def test_a_bundle_chooses_no_model_and_no_store_by_a_tasks_own_argument(kwargs: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is not followed where it says so"):
        read_env_kwargs(kwargs, "it", follow_paths=False, env_id="rlhf/Dialogue-v0")
    assert read_env_kwargs(kwargs, "it", env_id="rlhf/Dialogue-v0") == kwargs


def test_a_template_is_no_address() -> None:
    kwargs = {"template": "Say spam or ham. {text}\nAnswer:", "labels": ["human", "machine"]}
    assert read_env_kwargs(kwargs, "it", follow_paths=False, env_id="rlhf/Classify-v0") == kwargs


def test_a_model_named_with_hf_is_no_import_where_a_run_names_it() -> None:
    kwargs = {"reward": "hf:somebody/model@label"}
    assert read_env_kwargs(kwargs, "it") == kwargs


def test_a_bundle_may_have_a_human_reward_that_asks_nobody() -> None:
    kwargs = {"reward": "human", "reward_kwargs": {"store": None}}
    assert read_env_kwargs(kwargs, "it", follow_paths=False) == kwargs


def test_a_bundle_chooses_no_folder_of_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = tmp_path / "logs"
    agent = agents.make("ppo", agents.make_vec_env(BANDIT, 2), device="cpu", n_steps=4, batch_size=8)
    agent.tensorboard_log = str(log)
    agents.save(agent, tmp_path / "bundle")
    with caplog.at_level(logging.WARNING):
        loaded = agents.load(tmp_path / "bundle")
    assert f"does not log to '{log}'" in caplog.text
    loaded.learn(8)
    assert not log.exists()
    assert agents.load(tmp_path / "bundle", tensorboard_log=str(log)).tensorboard_log == str(log)


def test_a_loop_follows_no_url_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(LoopConfig(store=URL).model_dump_json())
    with pytest.raises(ValueError, match="give it again, --store"):
        LoopConfig.of_folder(tmp_path)
    assert LoopConfig.of_folder(tmp_path, LoopConfig(store=URL)).store == URL


def test_a_run_goes_on_with_its_own_module_once_it_is_given_again(tmp_path: Path) -> None:
    run = TrainConfig(env=f"no_such_module:{BANDIT}", env_kwargs={"reward": "m:r"})
    (tmp_path / "config.json").write_text(run.model_dump_json())
    with pytest.raises(ValueError, match="--env no_such_module"):
        TrainConfig.of_folder(tmp_path, TrainConfig(env_kwargs={"reward": "m:r"}))
    with pytest.raises(ValueError, match="--reward m:r"):
        TrainConfig.of_folder(tmp_path, TrainConfig(env=run.env))
    assert TrainConfig.of_folder(tmp_path, TrainConfig(env=run.env, env_kwargs={"reward": "m:r"})) == run


def test_a_file_does_not_say_which_ray_cluster_gets_work(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"algo": "ppo", "workers": 2, "ray_address": "theirs:6379"}), encoding="utf-8")
    with pytest.raises(ValueError, match="the Ray cluster 'theirs:6379' gets no work just because"):
        TrainConfig.of_folder(tmp_path)
    with pytest.raises(ValueError, match="give it again, --ray-address theirs:6379"):
        read_config_file(file, TrainConfig.model_fields, {})
    assert TrainConfig.of_folder(tmp_path, TrainConfig(ray_address="mine:6379")).ray_address == "mine:6379"
    file.write_text(json.dumps({"algo": "ppo", "workers": 2, "ray_address": "auto"}), encoding="utf-8")
    assert TrainConfig.of_folder(tmp_path).ray_address == "auto"


@pytest.mark.parametrize("name", ["engine", "hyperparams"])
def test_a_file_names_no_server_that_gets_texts_and_keys(tmp_path: Path, name: str) -> None:
    url = "http://elsewhere"
    kwargs = {"engine_kwargs": {"api_key_env": "SECRET"}}
    named: dict[str, Any] = {
        "engine": {"engine": url, "hyperparams": kwargs},
        "hyperparams": {"hyperparams": {"engine": url, **kwargs}},
    }
    run = TrainConfig(algo="rloo", **named[name])
    file = tmp_path / "config.json"
    file.write_text(run.model_dump_json())
    given: dict[str, Any] = {"hyperparams": kwargs | ({} if name == "engine" else {"engine": url})}
    given |= {"engine": url} if name == "engine" else {}
    with pytest.raises(ValueError, match="the engine 'http://elsewhere' is not asked"):
        TrainConfig.of_folder(tmp_path)
    with pytest.raises(ValueError, match="the engine 'http://elsewhere' is not asked"):
        read_config_file(file, TrainConfig.model_fields, {})
    keyless: dict[str, Any] = {"engine": url} if name == "engine" else {"hyperparams": {"engine": url}}
    for read in (
        lambda: TrainConfig.of_folder(tmp_path, TrainConfig(**keyless)),
        lambda: read_config_file(file, TrainConfig.model_fields, keyless),
    ):
        with pytest.raises(ValueError, match=r"api_key_env='SECRET' of the engine .* -params 'engine_kwargs:\{"):
            read()
    assert TrainConfig.of_folder(tmp_path, TrainConfig(**given)) == run
    assert read_config_file(file, TrainConfig.model_fields, given)[name] == getattr(run, name)


@pytest.mark.parametrize(
    ("named", "again"),
    [
        ({"engine_folder": "/their/home"}, "--engine-folder /their/home"),
        ({"hyperparams": {"engine_kwargs": {"folder": "/their/home"}}}, "-params 'engine_kwargs:"),
    ],
)
def test_a_file_does_not_say_where_an_engines_weights_are_written(
    tmp_path: Path, named: dict[str, Any], again: str
) -> None:
    """Each rollout writes there, and removes the weights of before."""
    run = TrainConfig(algo="rloo", **named)
    file = tmp_path / "config.json"
    file.write_text(run.model_dump_json())
    engine: dict[str, Any] = {"engine": "http://localhost:8000"}
    with pytest.raises(ValueError, match=f"'/their/home' .*just because .*: give it again, {again}"):
        TrainConfig.of_folder(tmp_path, TrainConfig(**engine))
    with pytest.raises(ValueError, match=f"'/their/home' .*just because .*: give it again, {again}"):
        read_config_file(file, TrainConfig.model_fields, engine)
    found = TrainConfig.of_folder(tmp_path, TrainConfig(**engine, **named))
    assert found.engine_kwargs()["folder"] == "/their/home"
    if "engine_folder" in named:
        other = TrainConfig.of_folder(tmp_path, TrainConfig(**engine, engine_folder="/my/home"))
        assert other.engine_kwargs()["folder"] == "/my/home"


def test_an_arm_of_a_comparison_in_a_file_names_no_server_either(tmp_path: Path) -> None:
    settings = {"overrides": {"rloo": {"engine": "http://elsewhere"}}}
    with pytest.raises(ValueError, match="the engine 'http://elsewhere' is not asked"):
        check_imports(settings, "a file", {})
    check_imports(settings, "a file", settings)
