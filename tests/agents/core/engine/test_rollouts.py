"""Rollouts that an engine draws: its tokens are the environment's actions, and its weights the policy's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

import agents
from agents import TrainConfig
from agents.algorithms.common.importance import correct
from agents.core.engine.client import Completion, CompletionsEngine, EngineError
from agents.training.resume import prepare_resumed
from agents.training.run import RunStopped, prepare, train

from .servers import serving

ID = "rlhf/TokenBandit-v0"


def make(name: str, n_envs: int, **arguments: Any) -> Any:
    return agents.make(name, agents.make_vec_env(ID, n_envs, seed=0), seed=0, device="cpu", **arguments)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model with the vocabulary of the token bandit, in a folder."""
    folder = tmp_path_factory.mktemp("model")
    make("reinforce", 1).policy.save_pretrained(folder)
    return str(folder)


def move(policy: Any) -> None:
    """Change the weights that learn, so that an engine with the old ones would be found out."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.language_model.trained_parameters().values():
            parameter.add_(0.3 * torch.randn_like(parameter))


ADAPTERS = {"train": "lora", "lora": {"r": 2, "target_modules": ["c_attn"]}}
RELOADED = ["/collective_rpc", "/reset_prefix_cache?reset_running_requests=true"]


@pytest.mark.parametrize(
    ("sync", "arguments", "told"),
    [
        ("folder", {"temperature": 0.7, "top_k": 3}, []),
        ("vllm", {}, RELOADED * 3),
        ("vllm", ADAPTERS, ["/v1/load_lora_adapter", *["/v1/load_lora_adapter", "/v1/unload_lora_adapter"] * 2]),
        ("sglang", ADAPTERS, ["/update_weights_from_disk"] * 3),
    ],
)
def test_the_engine_draws_by_the_policys_newest_weights(
    model: str, tmp_path: Path, sync: str, arguments: dict[str, Any], told: list[str]
) -> None:
    folder = tmp_path / "weights"
    if sync == "vllm" and not arguments:
        make("reinforce", 1, model=model).policy.save_pretrained(folder)
    with serving(str(folder) if folder.exists() else model) as server:
        engine = {"engine": server.url, "engine_kwargs": {"sync": sync, "folder": folder, "retries": 0}}
        agent = make("reinforce", 4, n_steps=4, model=model, learning_rate=1e-12, **engine, **arguments)
        move(agent.policy)
        agent.learn(3 * 16)  # three rollouts, and the first two cut episodes
    assert [path for path in server.paths if path != "/v1/completions"] == told
    gap = agent.logger.name_to_value["train/engine_gap"]
    assert gap < 1e-4, "the log-probabilities of the engine are the policy's own: same weights, contexts and decoding"
    assert agent.logger.name_to_value["train/importance_ratio_max"] == pytest.approx(1, abs=1e-3)
    assert len(agent.ep_info_buffer) >= 12, "the environment has ended the episodes, at 3 tokens or at EOS"
    assert len(list(folder.glob("policy-*"))) == (0 if told == RELOADED * 3 else 1), "older weights are removed"


def test_a_policy_in_bfloat16_keeps_the_engines_log_probabilities_until_they_are_weighted(model: str) -> None:
    with serving(model) as server:
        agent = make("reinforce", 4, n_steps=4, model=model, bf16=True, engine=server.url)
        move(agent.policy)
        agent.learn(16)
    assert 0 < agent.logger.name_to_value["train/engine_gap"] < 0.1


def test_dialogs_are_completed_turn_by_turn(tmp_path: Path) -> None:
    agent = agents.make("reinforce", "rlhf/DialogBandit-v0", n_envs=16, n_steps=6, seed=0, device="cpu")
    agent.policy.save_pretrained(tmp_path)
    move(agent.policy)
    with serving(str(tmp_path)) as server:
        agent.set_engine(server.url, seeded=True)
        agent.learn(96)
    assert agent.logger.name_to_value["train/engine_gap"] < 1e-4
    assert len(agent.rollout_buffer.turns(agent.rollout_buffer.rewards).returns.T) > 1, "the dialogs have several turns"


def test_sglang_is_refused_with_cuts_that_its_log_probabilities_leave_out() -> None:
    agent = make("reinforce", 2, top_k=3)
    agent.set_engine("http://127.0.0.1:1", sync="sglang")
    with pytest.raises(ValueError, match="top_k=3, top_p=None with SGLang"):
        agent.learn(8)


@pytest.mark.parametrize(("name", "level"), [("reinforce", "token"), ("rloo", "completion"), ("online_dpo", None)])
def test_advantages_are_weighted_by_truncated_ratios(name: str, level: str | None) -> None:
    agent = make(name, 8, n_steps=6)
    agent.learn(48)
    buffer = agent.rollout_buffer
    buffer.recompute(agent.policy)
    own, advantages = buffer.log_probs.copy(), agent._advantages(buffer)[0]
    drawn = own + np.random.default_rng(0).normal(0, 0.8, own.shape).astype(np.float32)
    log_ratio = own - drawn
    if level == "completion":
        episodes = buffer.segments[:, 0]
        log_ratio = np.array([[log_ratio[episodes == episode].sum()] for episode in episodes])
    expected = np.minimum(np.exp(log_ratio), 1.5) if level else np.ones_like(own)
    assert level is None or ((expected < 1.5).any() and (expected == 1.5).any())
    buffer.log_probs, agent.engine, agent.n_epochs = drawn, SimpleNamespace(clip_max=1.5), 0
    agent.train()
    assert buffer.advantages == pytest.approx(expected * advantages, abs=1e-5)
    assert buffer.log_probs == pytest.approx(own, abs=1e-5), "ratios of the update are to the policy before it"


@pytest.mark.parametrize(("off", "warns"), [(0.05, False), (0.15, True)])
def test_log_probabilities_far_from_the_policys_are_warned_of(
    off: float, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    agent = make("reinforce", 8, n_steps=6)
    agent.learn(48)
    buffer = agent.rollout_buffer
    buffer.recompute(agent.policy)
    own = buffer.log_probs.copy()
    buffer.log_probs = own - np.float32(off)
    weights, metrics = correct(buffer, agent.policy, "token_truncate", 1.1)
    assert metrics["engine_gap"] == pytest.approx(off, abs=1e-5)
    assert weights == pytest.approx(np.full_like(own, min(np.exp(off), 1.1)), abs=1e-5)
    said = [record.getMessage() for record in caplog.records]
    assert [f"on average {off:.2g} nats from the policy's" in message for message in said] == [True] * warns


def test_seeded_completions_come_again(model: str) -> None:
    weights = []
    with serving(model) as server:
        for seeded in (True, True, False):
            engine = {"engine": server.url, "engine_kwargs": {"seeded": seeded}}
            agent = make("reinforce", 4, n_steps=6, model=model, learning_rate=1e-2, **engine)
            agent.learn(24)
            weights.append(torch.cat([p.detach().flatten() for p in agent.policy.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_all_completions_of_a_rollout_are_cancelled_at_its_end(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the engine writes no tokens of old weights into the next one, whose own it has to write."""
    started: list[Completion] = []
    start = CompletionsEngine.start

    def watched(*arguments: Any) -> Completion:
        started.append(start(*arguments))
        return started[-1]

    monkeypatch.setattr(CompletionsEngine, "start", watched)
    with serving(model) as server:
        agent = make("reinforce", 4, n_steps=4, model=model, engine=server.url)
        agent.learn(16)
    assert len(started) >= 8, "each row has begun a second episode after three tokens at most"
    assert all(completion.is_cancelled for completion in started)
    assert agent.policy.draw_instead is None


def test_arguments_of_an_engine_are_checked() -> None:
    agent = make("reinforce", 2)
    with pytest.raises(ValueError, match=r"sync='nccl' of the engine"):
        agent.set_engine("http://localhost", sync="nccl")
    with pytest.raises(ValueError, match=r"clip_max=0\.5"):
        agent.set_engine("http://localhost", importance_sampling_clip_max=0.5)
    agent.set_engine("http://localhost", sync="vllm")
    with pytest.raises(ValueError, match="name the folder that vLLM was started with"):
        agent.learn(8)


def test_a_saved_agent_has_no_engine_until_it_is_given_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make("reinforce", 2, engine="http://localhost:1")
    agents.save(agent, tmp_path / "bundle")
    agent.save(tmp_path / "agent.zip")
    with monkeypatch.context() as forging:
        forging.setattr(type(agent), "_excluded_save_params", OnPolicyAlgorithm._excluded_save_params)
        agent.engine = "http://localhost:3"
        agents.save(agent, tmp_path / "forged")
    assert agents.load(tmp_path / "bundle").engine is agents.load(tmp_path / "forged").engine is None
    given: dict[str, Any] = {"engine": "http://localhost:2", "engine_kwargs": {"retries": 0}}
    zipped = type(agent).load(tmp_path / "agent.zip", env=agent.get_env(), **given)
    for loaded in (agents.load(tmp_path / "bundle", **given), zipped):
        assert (loaded.engine.engine.url, loaded.engine.engine.retries) == ("http://localhost:2", 0)


@pytest.mark.slow
def test_a_run_whose_server_dies_goes_on_with_another_one(model: str, tmp_path: Path) -> None:
    small = {
        "n_envs": 8,
        "eval_freq": 0,
        "test_episodes": 4,
        "progress": False,
        "log_folder": str(tmp_path),
        "threads": 1,
    }
    hyperparams = {"n_steps": 6, "engine_kwargs": {"retries": 0}}
    with serving(model) as server:
        told = {"engine": server.url, "engine_sync": "folder"}
        config = TrainConfig(algo="rloo", env=ID, n_timesteps=48 * 4, hyperparams=hyperparams, **told, **small)
        prepared = prepare(config)
        end = prepared.callbacks[0].on_rollout_end
        prepared.callbacks[0].on_rollout_end = lambda: (end(), server.shutdown(), server.socket.close())
        with pytest.raises(RunStopped, match="does not answer") as stopped:
            train(prepared)
    assert isinstance(stopped.value.__cause__, EngineError)
    with serving(model) as server:
        going_on = TrainConfig.of_folder(prepared.folder, TrainConfig(engine=server.url, engine_sync="folder"))
        result = train(prepare_resumed(prepared.folder, going_on))
    assert 0 < result.resumed_at < 48 * 4 == result.agent.num_timesteps
    assert "/v1/completions" in server.paths


@pytest.mark.slow
def test_an_agent_learns_from_an_engine_as_it_does_without(model: str) -> None:
    gains = []
    with serving(model) as server:
        for engine in (None, server.url):
            settings: dict[str, Any] = {"n_steps": 3, "model": model, "learning_rate": 3e-3, "kl_coef": 0.0}
            # Seeds make the engine's run the same every time: without them, about one run in five learns little.
            agent = make("rloo", 32, engine=engine, engine_kwargs={"seeded": True} if engine else None, **settings)
            agent.learn(96)
            before = np.mean([episode["r"] for episode in agent.ep_info_buffer])
            agent.learn(96 * 40, reset_num_timesteps=False)
            gains.append(np.mean([episode["r"] for episode in list(agent.ep_info_buffer)[-64:]]) - before)
    assert min(gains) > 0.2 and abs(gains[0] - gains[1]) < 0.5 * max(gains)
