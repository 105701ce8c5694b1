"""Bundles of adapters: they hold no base, and go on exactly on the same base alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import GPT2Config, GPT2LMHeadModel

import agents
from rlhf_envs.files import BundleError
from tests.agents.saving.test_bundles import repack

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's

ROLLOUT = 4 * 7  # tokens; episodes have 10, so that some go on at every boundary


def build_base(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_layer=2, n_embd=16, n_head=2))


def build(model: Any, algorithm: str = "ppo", **kwargs: Any) -> Any:
    settings = dict(n_envs=4, seed=0, train="lora", learning_rate=1e-2, device="cpu") | kwargs
    if algorithm == "ppo":
        settings = dict(n_steps=7, batch_size=14, n_epochs=2) | settings
    return agents.make(algorithm, "rlhf/IncreasingNumbers-v0", policy_kwargs=dict(model=model), **settings)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    build_base().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def bundle(base: Path, tmp_path: Path) -> Path:
    agents.save(build(str(base), lora=dict(r=2)).learn(ROLLOUT), tmp_path / "agent")
    return tmp_path / "agent"


def stored(bundle: Path) -> set[str]:
    with safe_open(bundle / "policy.safetensors", "pt") as file:
        return set(file.keys())


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(lora=dict(r=2)),
        dict(lora=dict(r=2), dtype="bfloat16"),
        dict(lora=dict(r=2, target_modules="transformer.h.*c_(fc|proj)", rank_pattern={"h.1.*": 3})),
        pytest.param(dict(value="separate", lora=dict(r=2)), marks=pytest.mark.slow),
    ],
    ids=["shared", "bfloat16", "patterns", "separate"],
)
def test_a_bundle_holds_the_adapters_alone_and_goes_on_bit_for_bit(kwargs, base, tmp_path):
    unbroken = build(str(base), **kwargs).learn(2 * ROLLOUT)
    unbroken.learn(2 * ROLLOUT, reset_num_timesteps=False)
    agents.save(build(str(base), **kwargs).learn(2 * ROLLOUT), tmp_path / "half")
    agents.save(agents.load(tmp_path / "half"), tmp_path / "half again")
    assert all("lora_" in n or n.startswith("value_net") or n == "kl_coef" for n in stored(tmp_path / "half again"))
    resumed = agents.load(tmp_path / "half again").learn(2 * ROLLOUT, reset_num_timesteps=False)
    for name, tensor in unbroken.policy.state_dict().items():
        assert torch.equal(tensor.nan_to_num(), resumed.policy.state_dict()[name].nan_to_num()), name
    assert resumed.policy.base_name == str(base)


def test_the_adapters_of_a_folder_and_of_a_peft_model_go_on(base, tmp_path):
    build(str(base), lora=dict(r=2)).learn(ROLLOUT).policy.save_pretrained(tmp_path / "adapters")
    config = peft.LoraConfig(r=3, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
    for model, is_named in (
        (str(tmp_path / "adapters"), True),
        (peft.get_peft_model(build_base().eval(), config), False),
        (peft.get_peft_model(build_base().eval(), config, adapter_name="mine"), False),
    ):
        agent = build(model, train="full").learn(ROLLOUT)
        agents.save(agent, tmp_path / "agent")
        assert any(name.endswith("wte.weight") for name in stored(tmp_path / "agent")) != is_named
        agent.learn(ROLLOUT, reset_num_timesteps=False)
        loaded = agents.load(tmp_path / "agent").learn(ROLLOUT, reset_num_timesteps=False)
        for name, tensor in agent.policy.state_dict().items():
            assert torch.equal(tensor.nan_to_num(), loaded.policy.state_dict()[name].nan_to_num()), name


def test_whole_modules_that_learn_beside_adapters_go_on_with_the_model_passed(tmp_path):
    def wrapped() -> Any:
        config = peft.LoraConfig(r=3, target_modules=["c_attn"], fan_in_fan_out=True, modules_to_save=["ln_f"])
        return peft.get_peft_model(build_base().eval(), config)

    agent = build(wrapped(), train="full").learn(ROLLOUT)
    agents.save(agent, tmp_path / "agent")
    with pytest.raises(BundleError, match=r"modules_to_save=\['ln_f'\] is not supported: .* and pass it, agents.load"):
        agents.load(tmp_path / "agent")
    loaded = agents.load(tmp_path / "agent", policy_kwargs={"model": wrapped()})
    for name, tensor in agent.policy.state_dict().items():
        assert torch.equal(tensor.nan_to_num(), loaded.policy.state_dict()[name].nan_to_num()), name


def test_a_policy_alone_loads_with_its_base(bundle, base):
    policy, _ = agents.load_policy(bundle)
    assert policy.base_name == str(base)
    assert policy.language_model.adapters is not None


def test_a_bundle_finds_its_base_from_another_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build_base().save_pretrained("models/beside")
    agents.save(build("models/beside", lora=dict(r=2)).learn(ROLLOUT), "runs/agent")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    agents.save(agents.load("../runs/agent"), "again")
    policy, _ = agents.load_policy("again")
    assert policy.base_name == str(tmp_path.resolve() / "models" / "beside")


def test_another_base_is_refused(bundle, base):
    build_base(seed=1).save_pretrained(base)
    with pytest.raises(ValueError, match=r"were trained on another model than .*base' that is here"):
        agents.load(bundle)


def test_a_base_that_is_gone_can_be_passed_and_no_other(bundle, base):
    shutil.rmtree(base)
    with pytest.raises(BundleError, match=r"cannot be built \(.*build it yourself and pass it, agents.load"):
        agents.load(bundle)
    with pytest.raises(ValueError, match="were trained on another model"):
        agents.load(bundle, policy_kwargs={"model": build_base(seed=1).eval()})
    agent = agents.load(bundle, policy_kwargs={"model": build_base().eval()})
    agent.learn(ROLLOUT, reset_num_timesteps=False)


def test_a_forged_base_is_not_fetched(bundle):
    repack(bundle, lambda described: described["model"]["base"].update(name="org/none", path="nowhere"))
    with pytest.raises(BundleError, match="the model 'org/none' is no folder, and not found as a hub id"):
        agents.load(bundle)
