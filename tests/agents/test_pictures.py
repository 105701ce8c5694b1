"""Agents that see pictures, from SFT to a bundle: "tiny-vision" on a handful of pictures."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import agents
from agents.algorithms.kto import mismatched
from agents.core.segment_buffer import SegmentBuffer
from agents.training import sft
from agents.training.sft import fine_tune
from rlhf_envs.models import load_tokenizer
from rlhf_envs.models.vision import load_processor
from tests.agents.algorithms.test_policy_gradient import move

COLORS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250), "black": (0, 0, 0)}


def rows(n: int = 12) -> list[dict[str, Any]]:
    names = [*COLORS] * n
    return [
        {
            "prompt": "which color?",
            "completion": f" {name}",
            "label": name,
            "image": Image.new("RGB", (64, 64), tuple(min(value + i, 255) for value in COLORS[name])),
        }
        for i, name in enumerate(names[:n])
    ]


def right(completions: list[str], label: list[str], **columns: Any) -> list[float]:
    return [float(name in text) for text, name in zip(completions, label, strict=True)]


def variety(completions: list[str], **columns: Any) -> list[float]:
    """Score how many different letters a completion has: a reward that differs from one to the next."""
    return [len({*text}) / 10 for text in completions]


def judged(n: int = 8, kind: str = "pairs") -> list[dict[str, Any]]:
    """Pairs or labels about pictures: the right color is the better one."""
    found = []
    for i, row in enumerate(rows(n)):
        wrong = [*COLORS][(i + 1) % 4]
        shown = {"prompt": row["prompt"], "image": row["image"]}
        if kind == "pairs":
            found.append({**shown, "chosen": f" {row['label']}", "rejected": f" {wrong}"})
        else:
            found.append({**shown, "completion": f" {(row['label'], wrong)[i % 2]}", "label": i % 2 == 0})
    return found


def offline(name: str, data: Any, **kwargs: Any) -> Any:
    options = {"n_steps": 12, "batch_size": None, "learning_rate": 1e-3, "device": "cpu", "seed": 0}
    return agents.make(name, make_env(max_new_tokens=6), data=data, **{**options, **kwargs})


def drawn(agent: Any) -> Any:
    """The minibatch of a rollout of an agent whose weights have moved."""
    callback = agent._setup_learn(10_000, None)[1]
    callback.on_training_start({}, {})
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    buffer = agent.rollout_buffer
    buffer.advantages, buffer.returns = (a.astype(np.float32) for a in agent._advantages(buffer))
    move(agent.policy)
    (samples,) = buffer.get(None)
    return samples


def make_env(n_envs: int = 4, **kwargs: Any) -> Any:
    data = [{name: value for name, value in row.items() if name != "completion"} for row in rows()]
    options = {"data": data, "validation_share": 0, "test_share": 0, "max_prompt_tokens": 48, "max_new_tokens": 3}
    given = {"model": "tiny-vision", "reward_fn": variety, **options, **kwargs}
    return agents.make_vec_env("rlhf/Prompts-v0", n_envs, seed=0, **given)


def check_that_a_bundle_goes_on(agent: Any, env: Any, folder: Path) -> None:
    """Assert that an agent and its bundle, with an environment like its own, are alike after 24 more steps."""
    agents.save(agent, folder)
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent.learn(24, reset_num_timesteps=False)
    again = agents.load(folder, env=env).learn(24, reset_num_timesteps=False)  # loading sets torch's random state
    states = [one.policy.state_dict() for one in (agent, again)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, before[name]) for name, value in states[0].items())


@pytest.mark.parametrize("name", ["ppo", "rloo"])
def test_agents_learn_and_keep_one_picture_per_episode(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    sequences = SegmentBuffer._sequences

    def look(self: Any, chosen: Any) -> Any:
        found = sequences(self, chosen)
        shapes.append((len(chosen), *found["pixel_values"].shape))
        return found

    monkeypatch.setattr(SegmentBuffer, "_sequences", look)
    agent = agents.make(name, make_env(), n_steps=6, batch_size=24, n_epochs=1, learning_rate=1e-3, seed=0)
    before = agent.policy.language_model.model.model.multi_modal_projector.linear_1.weight.detach().clone()
    agent.learn(48)
    assert agent.rollout_buffer.rewards.std() > 0.01, "rewards, and not their rounding, are learned from"
    after = agent.policy.language_model.model.model.multi_modal_projector.linear_1.weight
    assert not torch.equal(before, after)
    assert shapes and all(shape == (shape[0], shape[0], 1, 3, 48, 48) for shape in shapes)


def test_the_first_update_starts_at_a_ratio_of_1() -> None:
    agent = agents.make("ppo", make_env(), n_steps=6, batch_size=24, n_epochs=1, learning_rate=1e-9, seed=0)
    agent.learn(24)
    assert abs(agent.logger.name_to_value["train/approx_kl"]) < 1e-5


def test_a_bundle_goes_on_with_its_pictures(tmp_path: Path) -> None:
    agent = agents.make("ppo", make_env(), n_steps=6, batch_size=24, n_epochs=1, seed=0)
    agent.learn(24)
    check_that_a_bundle_goes_on(agent, make_env(), tmp_path / "bundle")


def test_a_saved_model_is_a_plain_one_with_its_processor(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    agent = agents.make("ppo", make_env(), n_steps=6, batch_size=24, n_epochs=1, seed=0)
    agent.policy.save_pretrained(tmp_path / "model")
    model, processor = (
        kind.from_pretrained(tmp_path / "model") for kind in (AutoModelForImageTextToText, AutoProcessor)
    )
    env = make_env(1, model=str(tmp_path / "model"))
    obs = env.reset()
    length = int(obs["attention_mask"].sum())
    given = processor(images=[rows()[int(env.get_attr("episodes")[0].index[0])]["image"]], text=["<image>which color?"])
    assert given["input_ids"][0] == obs["input_ids"][0, :length].tolist()
    assert np.allclose(given["pixel_values"][0], obs["pixel_values"][0, 0], atol=1e-6)
    assert isinstance(model, type(agent.policy.language_model.model))


def test_fine_tuning_sees_the_pictures(tmp_path: Path) -> None:
    data = rows(24)
    split = [{**row, "split": "validation" if i % 4 == 3 and i > 19 else "train"} for i, row in enumerate(data)]
    metrics = fine_tune(
        split, tmp_path / "start", model="tiny-vision", epochs=12, batch_size=8, learning_rate=2e-3, save_freq=1000
    )
    assert metrics["examples"] == 23
    blind = [{**row, "image": Image.new("RGB", (64, 64), "white")} for row in data]
    scores = [
        agents.evaluate(
            str(tmp_path / "start"),
            make_env(model=str(tmp_path / "start"), data=given, reward_fn=right),
            12,
            deterministic=True,
        ).reward.mean()
        for given in (data, blind)
    ]
    assert scores[0] >= 0.9 and scores[1] <= 0.5


def test_fine_tuning_saves_the_template_it_was_given_and_not_that_of_the_models_processor(tmp_path: Path) -> None:
    data, model = [{**row, "split": "train"} for row in rows(4)], "tiny-vision"
    for name in ("first", "second"):
        template = f"{name} {{% for m in messages %}}[{{{{ m['role'] }}}}] {{{{ m['content'] }}}}\n{{% endfor %}}"
        fine_tune(data, tmp_path / name, model=model, epochs=0.1, chat_template=template)
        model = str(tmp_path / name)
        assert load_tokenizer(model).chat_template == template


def test_evaluations_measure_the_kl_with_the_pictures() -> None:
    agent = agents.make("ppo", make_env(), n_steps=6, batch_size=24, n_epochs=2, learning_rate=2e-3, seed=0)
    agent.learn(48)
    found = agents.evaluate(agent, agent.get_env(), 8)
    assert found.kl is not None and found.kl.mean() > 0 and np.isfinite(found.kl).all()


def test_adapters_of_a_vision_language_model_are_saved_loaded_and_trained_on(tmp_path: Path) -> None:
    agent = agents.make(
        "ppo", make_env(), n_steps=6, batch_size=24, n_epochs=1, seed=0, policy_kwargs={"train": "lora"}
    )
    agent.learn(24)
    check_that_a_bundle_goes_on(agent, make_env(), tmp_path / "bundle")
    agent.policy.save_pretrained(tmp_path / "adapters")
    agent.policy.save_pretrained(tmp_path / "merged", merge=True)
    found = agents.evaluate(agent, agent.get_env(), 4)
    assert found.kl is not None and np.abs(found.kl).max() > 1e-3
    obs = {key: torch.as_tensor(value) for key, value in make_env().reset().items()}
    logits = agent.policy.get_distribution(obs).distribution.logits
    for name in ("adapters", "merged"):
        env = make_env(model=str(tmp_path / name))
        loaded = agents.make("ppo", env, n_steps=6, batch_size=24, seed=0).policy
        assert (loaded.language_model.adapters is not None) == (name == "adapters")
        assert torch.allclose(loaded.get_distribution(obs).distribution.logits, logits, atol=1e-3)


def test_fine_tuning_adapters_writes_a_folder_that_agents_start_from(tmp_path: Path) -> None:
    data = [{**row, "split": "train"} for row in rows(4)]
    fine_tune(data, tmp_path / "start", model="tiny-vision", epochs=2, batch_size=4, learning_rate=2e-3, lora=True)
    assert not (tmp_path / "start" / "model.safetensors").exists()
    policy = agents.make("ppo", make_env(model=str(tmp_path / "start")), n_steps=6, batch_size=24).policy
    assert policy.language_model.adapters is not None
    learns = [name for name, p in policy.language_model.named_parameters() if p.requires_grad]
    assert learns and all(".language_model." in name for name in learns)


def test_fine_tuning_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 0 has no 'image', and the model 'tiny-vision' reads a picture"):
        fine_tune([{"prompt": "a", "completion": " b"}] * 3, tmp_path / "out", model="tiny-vision")


def test_fine_tuning_that_was_stopped_before_its_first_checkpoint_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [{**row, "split": "train"} for row in rows(4)]
    options: dict[str, Any] = dict(model="tiny-vision", epochs=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(sft, "run_trainer", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fine_tune(data, tmp_path / "start", **options)
    assert (tmp_path / "start" / "processor_config.json").is_file()
    assert fine_tune(data, tmp_path / "start", resume=True, **options)["steps"] == 1


@pytest.mark.filterwarnings("ignore::Warning")
def test_dpos_loss_with_pictures_is_trls(tmp_path: Path) -> None:
    """TRL's collator reads the texts and the pictures by the model's processor."""
    trl, collators = pytest.importorskip("trl"), pytest.importorskip("trl.trainer.dpo_trainer")
    datasets = pytest.importorskip("datasets")
    agent = offline("dpo", data := judged(), beta=0.3)
    start = copy.deepcopy(agent.policy.language_model.model)
    samples = drawn(agent)
    processor = load_processor("tiny-vision")
    options: dict[str, Any] = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none"}
    texts = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in data]
    theirs = trl.DPOTrainer(
        model=agent.policy.language_model.model,
        ref_model=start,
        args=trl.DPOConfig(str(tmp_path), beta=0.3, **options),
        train_dataset=datasets.Dataset.from_list(texts),
        processing_class=processor.tokenizer,
    )
    theirs.model.eval(), start.eval()
    order = [next(i for i, row in enumerate(agent._logged) if row is one) for one in agent._drawn]
    eos = processor.tokenizer.eos_token
    examples = [
        {
            "prompt": f"{processor.image_token}{data[i]['prompt']}",
            "chosen": data[i]["chosen"] + eos,
            "rejected": data[i]["rejected"] + eos,
            "image": data[i]["image"],
        }
        for i in order
    ]
    batch = collators.DataCollatorForVisionPreference(processor)(examples)
    assert int(batch["completion_mask"].sum()) == len(samples.actions)
    loss, _ = agent._loss(samples)
    expected = theirs._compute_loss(theirs.model, dict(batch), False)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    parameters = [p for p in agent.policy.language_model.model.parameters() if p.requires_grad]
    mine, other = (torch.autograd.grad(one, parameters, allow_unused=True) for one in (loss, expected))
    assert [g is None for g in mine] == [g is None for g in other], "some of the encoder is not used"
    for one, another in zip(mine, other, strict=True):
        if one is not None:
            torch.testing.assert_close(one, another, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("dpo", "pairs"), ("kto", "labels")])
def test_judged_pictures_are_learned_alike_twice_and_seen(name: str, kind: str) -> None:
    data = judged(kind=kind)
    blind = [{**row, "image": Image.new("RGB", (64, 64), "white")} for row in data]
    losses = [offline(name, given).learn(96).logger.name_to_value["train/loss"] for given in (data, data, blind)]
    assert losses[0] == losses[1]
    assert abs(losses[0] - losses[2]) > 1e-6


def test_a_completion_of_another_row_is_read_with_the_prompts_own_picture() -> None:
    agent = offline("kto", judged(kind="labels"))
    samples = drawn(agent)
    obs, actions = mismatched(samples)
    assert torch.equal(obs["pixel_values"], samples.observations["pixel_values"])
    assert len({tuple(pixels.flatten().tolist()) for pixels in obs["pixel_values"]}) > 1
    own = [samples.actions[samples.observations["rows"] == row].tolist() for row in range(len(obs["input_ids"]))]
    assert [actions[obs["rows"] == row].tolist() for row in range(len(own))] == [own[-1], *own[:-1]]


def test_pairs_about_pictures_are_read_in_trls_forms_and_from_the_environments_data() -> None:
    data = judged(4)
    place = [{"type": "image"}, {"type": "text", "text": "which color?"}]
    lists = [{**row, "images": [row["image"]], "image": None} for row in data]
    talks = [
        {
            "images": [row["image"]],
            "prompt": [{"role": "user", "content": place}],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": [{"type": "text", "text": row["rejected"]}]}],
        }
        for row in data
    ]
    own = make_env(data=[row | {"split": "train"} for row in data])
    agent = agents.make("dpo", own, n_steps=12, seed=0)
    contexts = [tokens_of(one._logged) for one in (offline("dpo", data), offline("dpo", lists), agent)]
    assert contexts[0] == contexts[1] == contexts[2]
    chat = agents.make("dpo", make_env(chat_template="roles", max_prompt_tokens=80), data=talks, n_steps=12, seed=0)
    token = chat.env.get_attr("episodes", 0)[0].pictures.token_id
    ids = chat._logged[0].episodes[0].context["input_ids"].tolist()
    text = load_tokenizer("tiny-vision").decode([i for i in ids if i != token])
    assert token in ids and "which color?" in text


def tokens_of(logged: Any) -> list[list[int]]:
    return [episode.context["input_ids"].tolist() for row in logged for episode in row.episodes]


def test_references_of_sft_are_learned_with_their_pictures() -> None:
    losses = []
    for shade in (0, 255):
        data = [{**row, "image": Image.new("RGB", (64, 64), (shade,) * 3)} for row in rows()]
        agent = agents.make("sft", make_env(data=data), n_steps=12, seed=0, source="references")
        losses.append(agent.learn(48).logger.name_to_value["train/loss"])
    assert abs(losses[0] - losses[1]) > 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "row 1 has no 'image'"),
        ({"image": "no.png"}, "row 1: the image 'no.png' is no file"),
        ({"images": ["a.png", "b.png"]}, "data, row 1: it has 3 pictures: the model is shown one with a prompt"),
        (
            {"chosen": [{"role": "assistant", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}]},
            "data, row 1: 'chosen' has a picture in another place",
        ),
    ],
)
def test_pairs_whose_pictures_cannot_be_shown_are_named(change: dict[str, Any], message: str) -> None:
    data = judged(3)
    data[1] |= change
    with pytest.raises(ValueError, match=message):
        offline("dpo", data)


def test_a_model_of_text_says_that_it_does_not_see_the_pictures(caplog: pytest.LogCaptureFixture) -> None:
    env = agents.make_vec_env("rlhf/Prompts-v0", 2, data=[{"prompt": "a", "split": "train"}], reward_fn=variety)
    agents.make("dpo", env, data=judged(3))
    assert "3 of 3 rows: pictures that are not read, because the environment shows none" in caplog.text
