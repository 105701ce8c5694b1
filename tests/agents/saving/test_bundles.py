"""Bundles: what is saved, what is refused, and that an agent goes on from one bit for bit."""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from safetensors import safe_open
from stable_baselines3.common.utils import LinearSchedule

import agents
from agents import SequenceRolloutBuffer, TokenPolicy, make_vec_env
from agents.evaluation.source import Source
from agents.saving.environment import remake_env
from rlhf_envs.curriculum import Curriculum
from rlhf_envs.files import BundleError
from rlhf_envs.rewards import Constrained, Whitened
from rlhf_envs.rewards.state import get_reward_state

ID = "rlhf/IncreasingNumbers-v0"
ROLLOUT = 4 * 7  # tokens; episodes have 10, so that some go on at every boundary
FILES = ["agent.json", "manifest.json", "optimizer.safetensors", "policy.safetensors", "state.safetensors"]


def build(cls: type[Any], env: Any = None, **kwargs: Any) -> Any:
    settings: dict[str, Any] = dict(n_steps=7, seed=0, device="cpu", gamma=1.0)
    settings |= dict(rollout_buffer_kwargs=dict(kl_coef=0.1, kl_target=0.5, kl_horizon=20))
    if issubclass(cls, stable_baselines3.PPO):
        settings |= dict(batch_size=14, n_epochs=2)
    env = make_vec_env(ID, 4, seed=0) if env is None else env
    return cls(TokenPolicy, env, rollout_buffer_class=SequenceRolloutBuffer, **(settings | kwargs))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "agent"
    agents.save(build(agents.get_algorithm("ppo")).learn(ROLLOUT), folder)
    return folder


def test_loading_says_nothing_of_minibatches_as_making_does_not(tmp_path: Path) -> None:
    """The buffer makes minibatches of whole episodes; 28 tokens are no multiple of 10."""
    agents.save(agents.make("ppo", ID, n_envs=4, n_steps=7, batch_size=10, device="cpu"), tmp_path / "agent")
    assert agents.load(tmp_path / "agent").batch_size == 10


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "agent"))


def contents(folder: Path) -> dict[str, Any]:
    """All a bundle holds, save for the wall clock."""

    def without_clock(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_clock(item) for key, item in value.items() if key not in ("t", "seconds")}
        return [without_clock(item) for item in value] if isinstance(value, list) else value

    described = without_clock(json.loads((folder / "agent.json").read_text()))
    return {"agent": described, **{name: (folder / name).read_bytes() for name in FILES if name.endswith("tensors")}}


def repack(folder: Path, change: Any) -> None:
    """Forge a bundle: change its description and make the checksums right again."""
    described = json.loads((folder / "agent.json").read_text())
    change(described)
    (folder / "agent.json").write_text(json.dumps(described))
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        manifest["files"][name]["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


# Going on exactly


CASES = {
    "ppo": agents.get_algorithm("ppo"),
    "a2c": agents.get_algorithm("a2c"),
    "stock-ppo": stable_baselines3.PPO,
    "stock-a2c": stable_baselines3.A2C,
}
ROUNDS = 3


def save_unbroken_and_half(cls: type[Any], folder: Path) -> None:
    """An agent that learned twice, and one that is to learn once more."""
    unbroken = build(cls)
    unbroken.learn(ROUNDS * ROLLOUT)
    unbroken.learn(ROUNDS * ROLLOUT, reset_num_timesteps=False)
    agents.save(unbroken, folder / "unbroken")
    agents.save(build(cls).learn(ROUNDS * ROLLOUT), folder / "half")


@pytest.mark.parametrize("name", CASES)
def test_an_agent_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Weights, optimizer, controller, environment, counters and generators, at a boundary within episodes."""
    save_unbroken_and_half(CASES[name], tmp_path)
    for seed in (random.seed, np.random.seed, torch.manual_seed):  # as in another process
        seed(7)
    resumed = agents.load(tmp_path / "half").learn(ROUNDS * ROLLOUT, reset_num_timesteps=False)
    agents.save(resumed, tmp_path / "resumed")
    assert contents(tmp_path / "resumed") == contents(tmp_path / "unbroken")
    assert contents(tmp_path / "resumed") != contents(tmp_path / "half")


@pytest.mark.slow
def test_a_new_process_goes_on_bit_for_bit(tmp_path: Path) -> None:
    for name, cls in CASES.items():
        save_unbroken_and_half(cls, tmp_path / name)
    code = (
        "import sys, agents\n"
        "for folder in sys.argv[2:]:\n"
        "    agent = agents.load(folder + '/half').learn(int(sys.argv[1]), reset_num_timesteps=False)\n"
        "    agents.save(agent, folder + '/resumed')\n"
    )
    folders = [str(tmp_path / name) for name in CASES]
    done = subprocess.run([sys.executable, "-c", code, str(ROUNDS * ROLLOUT), *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in CASES:
        resumed, unbroken = contents(tmp_path / name / "resumed"), contents(tmp_path / name / "unbroken")
        assert resumed == unbroken, name
        assert resumed != contents(tmp_path / name / "half")


@pytest.mark.parametrize(
    "policy_kwargs",
    [
        dict(train=1, value="separate"),
        dict(train="head"),
        dict(train="lora", lora=dict(r=2), value="separate"),
        dict(train=1, dtype="bfloat16", attn_implementation="eager", gradient_checkpointing=True),
        dict(temperature=0.7, top_k=9, optimizer_class=torch.optim.AdamW, optimizer_kwargs=dict(weight_decay=0.1)),
    ],
    ids=["blocks-separate", "head", "lora-separate", "bfloat16", "adamw"],
)
def test_every_kind_of_policy_goes_on(policy_kwargs: dict[str, Any], small_model: Any, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    def start() -> Any:
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_layer=2, n_embd=16, n_head=2))
        return build(agents.get_algorithm("ppo"), policy_kwargs=dict(model=model, **policy_kwargs))

    unbroken = start().learn(2 * ROLLOUT)
    unbroken.learn(2 * ROLLOUT, reset_num_timesteps=False)
    agents.save(start().learn(2 * ROLLOUT), tmp_path / "half")
    resumed = agents.load(tmp_path / "half").learn(2 * ROLLOUT, reset_num_timesteps=False)
    for name, tensor in unbroken.policy.state_dict().items():
        assert torch.equal(tensor, resumed.policy.state_dict()[name]), name
    assert type(unbroken.policy.optimizer) is type(resumed.policy.optimizer)


def test_a_schedule_goes_on_from_a_checkpoint_inside_learn(tmp_path: Path) -> None:
    from agents.saving.checkpoints import Checkpoints
    from agents.training.checkpoint_callback import CheckpointCallback

    kwargs = dict(learning_rate=LinearSchedule(1e-3, 1e-5, 0.8), clip_range=LinearSchedule(0.3, 0.1, 1.0))
    callback = CheckpointCallback(Checkpoints(tmp_path, keep=9), save_freq=ROLLOUT)
    unbroken = build(stable_baselines3.PPO, **kwargs).learn(4 * ROLLOUT, callback=callback)
    resumed = agents.load(tmp_path / str(2 * ROLLOUT))
    resumed.learn(2 * ROLLOUT, reset_num_timesteps=False)
    for name, tensor in unbroken.policy.state_dict().items():
        assert torch.equal(tensor, resumed.policy.state_dict()[name]), name
    assert unbroken.policy.optimizer.param_groups[0]["lr"] == resumed.policy.optimizer.param_groups[0]["lr"] < 1e-3


def test_saving_changes_nothing(tmp_path: Path) -> None:
    quiet = build(stable_baselines3.PPO).learn(ROLLOUT)
    quiet.learn(ROLLOUT, reset_num_timesteps=False)
    saved = build(stable_baselines3.PPO).learn(ROLLOUT)
    agents.save(saved, tmp_path / "agent")
    saved.learn(ROLLOUT, reset_num_timesteps=False)
    for one, other in zip(quiet.policy.parameters(), saved.policy.parameters(), strict=True):
        assert torch.equal(one, other)


# What is in a bundle


def test_tied_weights_are_stored_once_and_tied_again(bundle: Path) -> None:
    agent = agents.load(bundle)
    network = agent.policy.language_model.model
    assert network.lm_head.weight is network.transformer.wte.weight
    with safe_open(bundle / "policy.safetensors", "pt") as file:
        names = set(file.keys())
    assert "language_model.model.transformer.wte.weight" in names
    assert "language_model.model.lm_head.weight" not in names
    assert set(agent.policy.state_dict()) > names


def test_nothing_is_pickled(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cloudpickle

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("pickle was used")

    agent = build(stable_baselines3.PPO)
    for module, names in (
        (pickle, ("load", "loads", "dump", "dumps", "Pickler", "Unpickler")),
        (torch, ("load", "save")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(cloudpickle, "loads", refuse)
    monkeypatch.setattr(cloudpickle, "dumps", refuse)
    agents.save(agent, tmp_path / "agent")
    agents.load(tmp_path / "agent")
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".safetensors"}


def test_a_bundle_needs_no_model_but_itself(tmp_path: Path) -> None:
    """The model was given by the name of a folder, which is gone when the bundle is loaded."""
    from rlhf_envs.models import load_tokenizer, resolve

    source = Path(shutil.copytree(resolve("tiny"), tmp_path / "source"))
    env = make_vec_env("rlhf/Sentiment-v0", 2, seed=0, model=str(source), reward="gold", max_new_tokens=4)
    agent = agents.make("a2c", env, seed=0, train="head", device="cpu").learn(8)
    agents.save(agent, tmp_path / "agent")
    obs = env.reset()
    expected = agent.predict(obs, deterministic=True)[0]
    shutil.rmtree(source)
    load_tokenizer.cache_clear()
    loaded = agents.load(tmp_path / "agent")
    assert (loaded.predict(obs, deterministic=True)[0] == expected).all()
    loaded.learn(8, reset_num_timesteps=False)
    loaded.policy.save_pretrained(tmp_path / "model")
    assert load_tokenizer(str(tmp_path / "model")).eos_token == load_tokenizer("tiny").eos_token


def test_a_known_name_stays(tmp_path: Path) -> None:
    env = make_vec_env("rlhf/Sentiment-v0", 2, seed=0, reward="gold", max_new_tokens=4)
    agents.save(agents.make("a2c", env, seed=0, train="head", device="cpu"), tmp_path / "agent")
    loaded = agents.load(tmp_path / "agent")
    assert loaded.policy.model_name == "tiny"
    assert loaded.get_env().get_attr("model_name") == ["tiny", "tiny"]
    assert loaded.policy_kwargs["model"] == "tiny"


def test_a_function_is_named_when_it_is_missing_and_can_be_passed(tmp_path: Path) -> None:
    agents.save(build(stable_baselines3.PPO, learning_rate=lambda left: 1e-3 * left), tmp_path / "agent")
    with pytest.raises(ValueError, match=r"learning_rate was <function.*agents.load\(\.\.\., learning_rate=\.\.\.\)"):
        agents.load(tmp_path / "agent")
    loaded = agents.load(tmp_path / "agent", learning_rate=lambda left: 2e-3 * left)
    assert loaded.lr_schedule(0.5) == 1e-3


def test_a_function_inside_a_schedule_is_named_as_the_argument_is(tmp_path: Path) -> None:
    agents.save(build(stable_baselines3.PPO, clip_range=lambda left: 0.1 * left), tmp_path / "agent")
    with pytest.raises(ValueError, match=r"clip_range was <function.*agents.load\(\.\.\., clip_range=\.\.\.\)"):
        agents.load(tmp_path / "agent")
    assert agents.load(tmp_path / "agent", clip_range=lambda left: 0.3 * left).clip_range(0.5) == 0.15


def test_arguments_can_be_changed(bundle: Path) -> None:
    changed = agents.load(
        bundle, learning_rate=0.5, policy_kwargs=dict(temperature=0.25), rollout_buffer_kwargs=dict(kl_target=7.0)
    )
    assert changed.lr_schedule(1.0) == 0.5
    assert changed.policy.temperature == 0.25
    assert changed.rollout_buffer.controller.target == 7.0
    assert changed.rollout_buffer.controller.horizon == 20  # as it was
    with pytest.raises(TypeError, match="no argument 'learning_rat'"):
        agents.load(bundle, learning_rat=0.5)


class MyPolicy(TokenPolicy):
    """A user's own."""


class MyPPO(stable_baselines3.PPO):
    """A user's own."""


def test_own_classes_are_passed_and_never_imported(tmp_path: Path) -> None:
    agent = MyPPO(
        MyPolicy,
        make_vec_env(ID, 4),
        rollout_buffer_class=SequenceRolloutBuffer,
        n_steps=7,
        batch_size=14,
        device="cpu",
    )
    agents.save(agent, tmp_path / "agent")
    with pytest.raises(ValueError, match=r"MyPPO has no name that is known here.*algorithm="):
        agents.load(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"policy was .*MyPolicy.*agents\.load\(\.\.\., policy=\.\.\.\)"):
        agents.load(tmp_path / "agent", algorithm=MyPPO)
    loaded = agents.load(tmp_path / "agent", algorithm=MyPPO, policy=MyPolicy)
    assert (type(loaded), type(loaded.policy)) == (MyPPO, MyPolicy)


def test_an_agent_without_an_environment_is_saved_and_goes_on_in_one_that_is_passed(tmp_path: Path) -> None:
    build(stable_baselines3.PPO).save(tmp_path / "agent.zip")
    agent = stable_baselines3.PPO.load(tmp_path / "agent.zip", device="cpu")
    assert agent.get_env() is None
    agents.save(agent, tmp_path / "agent")
    with pytest.raises(ValueError, match=r"environment is not in the bundle.*pass the environment"):
        agents.load(tmp_path / "agent")
    loaded = agents.load(tmp_path / "agent", env=make_vec_env(ID, 4, seed=0))
    expected = agent.policy.state_dict()
    torch.testing.assert_close(dict(loaded.policy.state_dict()), dict(expected), rtol=0, atol=0, equal_nan=True)
    assert loaded.learn(ROLLOUT).num_timesteps == ROLLOUT


def test_an_environment_that_is_not_json_is_passed_and_goes_on(tmp_path: Path) -> None:
    def longest(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        return [float(len(completion)) for completion in completions]

    agent = build(stable_baselines3.PPO, make_vec_env(ID, 4, seed=0, reward_fn=longest)).learn(ROLLOUT)
    agents.save(agent, tmp_path / "agent")
    with pytest.raises(ValueError, match=r"reward_fn was .*not JSON; pass the environment.*env=env"):
        agents.load(tmp_path / "agent")
    env = make_vec_env(ID, 4, reward_fn=longest)
    loaded = agents.load(tmp_path / "agent", env)
    assert (env.env.episodes.steps == agent.get_env().env.episodes.steps).all()
    assert env.env.episodes.steps.any()
    loaded.learn(ROLLOUT, reset_num_timesteps=False)


def test_other_rows_begin_new_episodes_and_say_so(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = agents.load(bundle, make_vec_env(ID, 2, seed=0))
    assert "4 rows then, 2 now" in caplog.text
    assert loaded.learn(14, reset_num_timesteps=False).num_timesteps == ROLLOUT + 14


def test_other_rows_go_on_with_what_rewards_and_curricula_have_learned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def env(n: int, levels: int = 3) -> Any:
        made = make_vec_env(ID, n, seed=0, reward_fn=Constrained(Whitened("increasing-numbers"), "repetition", 0.1))
        made.env.episodes.sampler.tasks = Curriculum([k % levels for k in range(len(made.env.episodes.rows))])
        return made

    before = env(4)
    agent = build(stable_baselines3.PPO, before)
    agent.learn(ROLLOUT)
    before.env.reward_fn.multiplier, before.env.episodes.sampler.tasks.opened = 3.0, 2
    agents.save(agent, tmp_path / "agent")
    after = env(2)
    agents.load(tmp_path / "agent", after)
    assert after.env.episodes.sampler.tasks.level == 1
    assert after.env.reward_fn.multiplier == 3.0
    assert get_reward_state(after.env.reward_fn) == get_reward_state(before.env.reward_fn)
    agents.load(tmp_path / "agent", env(2, levels=2))
    assert "its mixture or curriculum begins anew: the state is of the tasks 0, 1, 2" in caplog.text


def test_another_environment_is_refused(bundle: Path) -> None:
    with pytest.raises(ValueError, match=r"trained on .*Discrete\(32\).*has .*Discrete\(8\)"):
        agents.load(bundle, make_vec_env("rlhf/TokenBandit-v0", 4))


def test_agents_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="bundles hold on-policy agents"):
        agents.save(stable_baselines3.DQN("MlpPolicy", "CartPole-v1", buffer_size=10), tmp_path / "agent")


def test_a_diverged_agent_does_not_replace_a_good_one(copy: Path) -> None:
    agent, before = agents.load(copy), contents(copy)
    with torch.no_grad():
        agent.policy.value_net.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"value_net\.weight is not finite"):
        agents.save(agent, copy)
    assert contents(copy) == before


@pytest.mark.parametrize("name", ["notes.txt", "manifest.json"])
def test_what_is_no_bundle_is_never_replaced(name: str, bundle: Path, tmp_path: Path) -> None:
    agent = agents.load(bundle)
    file = tmp_path / "results" / name
    file.parent.mkdir()
    file.write_text('{"short_name": "an app"}')
    for target in (file.parent, file):
        with pytest.raises(FileExistsError, match=f"{target} exists and is no bundle"):
            agents.save(agent, target)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
    file.unlink()
    agents.save(agent, file.parent)  # an empty folder
    agents.save(agent, file.parent)  # a bundle


def test_a_tokenizer_that_cannot_be_written_is_a_failure_of_the_disk(bundle: Path, tmp_path: Path) -> None:
    from agents.saving.tensors import save_model_config

    class Tokenizer:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def save_pretrained(self, folder: Path) -> None:
            raise self.error

    policy = agents.load(bundle).policy
    with pytest.raises(OSError, match="No space left on device"):  # as `tokenizers` says it
        save_model_config(policy, Tokenizer(Exception("No space left on device (os error 28)")), tmp_path)
    with pytest.raises(KeyError):
        save_model_config(policy, Tokenizer(KeyError("a bug")), tmp_path)


# Damage


@pytest.mark.parametrize("name", [*FILES, "model/config.json", "model/tokenizer.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_named(name: str, damage: str, copy: Path) -> None:
    data = bytearray((copy / name).read_bytes())
    if damage == "gone":
        (copy / name).unlink()
    else:
        # The manifest's middle may be a letter of a version, which nothing can check.
        at = data.rindex(b'"sha256"') + 20 if name == "manifest.json" else len(data) // 2
        data[at] ^= 1
        (copy / name).write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    with pytest.raises(BundleError, match=name.rpartition("/")[2] if name != "manifest.json" else None):
        agents.load(copy)


def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path, copy: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for path, message in (
        (tmp_path, "no manifest"),
        (tmp_path / "no", "no such folder"),
        (tmp_path / "text", "neither"),
    ):
        with pytest.raises(BundleError, match=message):
            agents.load(path)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "version": 99}))
    with pytest.raises(BundleError, match=r"version 99; this release reads .* version 1"):
        agents.load(copy)


# Trust


class Exploit:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def exploit_zip(path: Path, marker: Path) -> Path:
    """An SB3 zip whose data and whose tensors run code when they are unpickled."""
    import base64

    import cloudpickle

    encoded = base64.b64encode(cloudpickle.dumps(Exploit(marker))).decode()
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data", json.dumps({"policy_class": {":type:": "evil", ":serialized:": encoded}}))
        file.writestr("policy.pth", pickle.dumps(Exploit(marker)))
    return path


def test_an_exploit_zip_does_not_run(tmp_path: Path, copy: Path) -> None:
    marker = tmp_path / "ran"
    path = exploit_zip(tmp_path / "agent.zip", marker)
    with pytest.raises(ValueError, match="holds pickles, which can run any code"):
        agents.load(path)
    with pytest.raises(ValueError, match="holds pickles"):
        agents.load(shutil.copy(path, tmp_path / "innocent"))
    for name in ("agent.zip", "data.pkl", "policy.pth", "optimizer.pt"):
        shutil.copy(path, copy / name)
    agents.load(copy)
    assert not marker.exists()
    with pytest.raises(Exception):  # noqa: B017, PT011  # whatever: the exploit is real, trust runs it
        agents.load(path, algorithm="ppo", trust_pickle=True)
    assert marker.exists()


def test_a_trusted_zip_loads(tmp_path: Path) -> None:
    agent = build(agents.get_algorithm("ppo")).learn(ROLLOUT)
    agent.save(tmp_path / "agent.zip")
    with pytest.raises(ValueError, match=r"does not name its algorithm: pass it, .*algorithm="):
        agents.load(tmp_path / "agent.zip", agent.get_env(), trust_pickle=True)
    loaded = agents.load(tmp_path / "agent.zip", agent.get_env(), algorithm="ppo", trust_pickle=True)
    for one, other in zip(agent.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    assert Source.of(tmp_path / "agent.zip", trust=True).policy is not None


def test_a_zip_that_names_our_classes_by_their_old_modules_loads(tmp_path: Path) -> None:
    agent = build(agents.get_algorithm("ppo")).learn(ROLLOUT)
    agent.save(tmp_path / "new.zip")
    with zipfile.ZipFile(tmp_path / "new.zip") as new, zipfile.ZipFile(tmp_path / "old.zip", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            if name == "data":
                data = json.loads(content)
                for key, path in (("policy_class", "policy"), ("rollout_buffer_class", "buffers")):
                    named = f"cagents.{path}\n{vars(agent)[key].__name__}\n.".encode()  # the pickle of a class
                    data[key] = {":type:": "", ":serialized:": base64.b64encode(named).decode()}
                content = json.dumps(data).encode()
            old.writestr(name, content)
    loaded = agents.load(tmp_path / "old.zip", agent.get_env(), algorithm="ppo", trust_pickle=True)
    for one, other in zip(agent.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def forge_class(described: dict[str, Any]) -> None:
    described["values"]["attributes"]["policy_class"] = {"$": "class", "name": "evil_module.Evil"}


def forge_algorithm(described: dict[str, Any]) -> None:
    described["algorithm"] = {"named": "evil_module.Evil"}


def forge_env(described: dict[str, Any]) -> None:
    described["env"]["id"] = "evil_module:rlhf/Evil-v0"


def forge_task(described: dict[str, Any]) -> None:
    described["env"]["kwargs"]["task"] = "evil_module:Evil"


def forge_reward(described: dict[str, Any]) -> None:
    described["env"]["kwargs"]["reward"] = "evil_module:evil"


FORGERIES = [forge_class, forge_algorithm, forge_env, forge_task, forge_reward]


@pytest.mark.parametrize("forge", FORGERIES)
def test_a_forged_bundle_imports_nothing(
    forge: Any, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nEvil = evil = print\n")
    monkeypatch.syspath_prepend(tmp_path)
    repack(copy, forge)
    with pytest.raises(ValueError, match=r"evil_module|task"):
        agents.load(copy)
    assert "evil_module" not in sys.modules
    assert not (tmp_path / "ran").exists()


def test_attention_is_none_but_of_transformers_own(copy: Path) -> None:
    """Other names are hub ids of kernels, which transformers downloads and imports."""
    repack(copy, lambda described: described["model"].update(attention="evil/kernel"))
    with pytest.raises(BundleError, match="the attention 'evil/kernel' is none of eager, sdpa"):
        agents.load(copy)


def test_a_hub_id_is_never_looked_up(copy: Path) -> None:
    for file in (copy / "model").glob("*token*"):
        file.unlink()
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if (copy / name).is_file()}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    repack(copy, lambda described: described["model"].update(name="evil/model"))
    with pytest.raises(BundleError, match=r"no tokenizer, and 'evil/model' is neither .*policy_kwargs="):
        agents.load(copy)

    def forge(described: dict[str, Any]) -> None:
        described["model"] = None
        described["values"]["attributes"]["policy_kwargs"]["model"] = "evil/model"

    repack(copy, forge)
    with pytest.raises(BundleError, match="describes no model for its policy"):
        agents.load(copy)


@pytest.mark.parametrize(
    "forged", [{"attn_implementation": "evil/kernel"}, {"text_config": {"_attn_implementation": "evil/kernel"}}]
)
def test_a_kernel_that_the_config_names_is_not_fetched(copy: Path, forged: dict[str, Any]) -> None:
    config = json.loads((copy / "model" / "config.json").read_text())
    (copy / "model" / "config.json").write_text(json.dumps({**config, **forged}))
    repack(copy, lambda described: described["model"].update(attention=None))
    with pytest.raises(BundleError, match=r"config.json names a kernel \(_?attn_implementation\)"):
        agents.load(copy)


def test_a_models_own_code_is_refused(copy: Path) -> None:
    config = json.loads((copy / "model" / "config.json").read_text())
    (copy / "model" / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "evil.Evil"}}))
    repack(copy, lambda _: None)
    with pytest.raises(BundleError, match="auto_map"):
        agents.load(copy)
    (copy / "model" / "evil.py").write_text("raise SystemExit")
    with pytest.raises(BundleError, match=r"evil\.py is no part of the bundle"):
        agents.load(copy)


# Evaluation


def test_a_bundle_is_evaluated_like_the_agent(bundle: Path) -> None:
    from agents.evaluation.evaluate import evaluate

    live, saved = (evaluate(source, ID, n_episodes=20) for source in (agents.load(bundle), bundle))
    assert [c.completion for c in live.completions] == [c.completion for c in saved.completions]
    assert live.kl is not None
    assert saved.kl is not None
    np.testing.assert_array_equal(live.kl, saved.kl)
    assert np.abs(saved.kl).max() > 0  # against where it started, which is in the bundle


def test_the_state_of_an_environment_is_a_copy() -> None:
    env = make_vec_env(ID, 3, seed=0)
    env.reset()
    state = env.get_state()
    first = [env.step(np.full(3, token))[0]["input_ids"].copy() for token in range(2, 24)]  # beyond the episodes' ends
    env.set_state(state)
    again = [env.step(np.full(3, token))[0]["input_ids"].copy() for token in range(2, 24)]
    np.testing.assert_array_equal(first, again)
    other = make_vec_env(ID, 3)  # never reset
    other.set_state(state)
    np.testing.assert_array_equal(first, [other.step(np.full(3, token))[0]["input_ids"] for token in range(2, 24)])


def test_a_state_of_other_data_is_refused() -> None:
    env, other = make_vec_env(ID, 3, seed=0), make_vec_env(ID, 3, data=[{"prompt": "1"}])
    env.reset()
    with pytest.raises(ValueError, match="10 rows of data, and this environment 1"):
        other.set_state(env.get_state())
    with pytest.raises(ValueError, match="same num_envs"):
        make_vec_env(ID, 2).set_state(env.get_state())


@pytest.mark.parametrize("name", ["evil:attribute", "evil://attribute"])
@pytest.mark.parametrize("kwargs", [{"reward": "{}"}, {"reward": "human", "reward_kwargs": {"fallback": "{}"}}])
def test_a_bundle_cannot_have_a_module_imported_as_a_reward(
    name: str, kwargs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    given = json.loads(json.dumps(kwargs).replace("{}", name))
    with pytest.raises(ValueError, match=r"is not imported|is not followed"):
        remake_env({"id": "rlhf/Sentiment-v0", "num_envs": 1, "kwargs": given})
