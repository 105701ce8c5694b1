"""The model card, and the generation_config.json of a saved model."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, GenerationConfig

from agents import evaluate, make, make_vec_env
from agents.saving.provenance import commit, provenance
from agents.training.config import TrainConfig
from agents.training.model_card import MARK, model_card, write_model_card
from agents.training.report import TrainResult
from agents.training.run import _generation_options
from rlhf_envs.models import load_tokenizer

BANDIT = "rlhf/TokenBandit-v0"


@pytest.fixture(scope="module")
def result() -> TrainResult:
    agent = make("ppo", BANDIT, n_envs=8, seed=0, batch_size=24)
    before, after = evaluate(agent, BANDIT, 8), evaluate(agent, BANDIT, 8, seed=1)
    config = TrainConfig(
        env=BANDIT, model="some/base", env_kwargs={"reward_kwargs": {"store": "postgresql://me:secret@db/x"}}
    )
    learned = SimpleNamespace(
        num_timesteps=1234, policy=SimpleNamespace(model_name="some/base", base_name=None, picture=None)
    )
    return TrainResult(config, Path("logs/ppo/run"), learned, before, after, 1.0)


def test_the_card_has_base_algorithm_tokens_figures_samples_and_versions(result: TrainResult) -> None:
    card = model_card(result)
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "some/base"
    assert "`some/base`, trained with **ppo** on `rlhf/TokenBandit-v0` for 1,234 tokens" in body
    before, after = result.before.estimates()["reward"], result.after.estimates()["reward"]
    assert f"| reward | {before} | {after} | {result.after.change_from(result.before)['reward']} |" in body
    assert body.count("- after: ") == 3
    assert "is the only supervision" in body
    both = result.config.model_copy(update={"sft_coef": 0.5})
    assert "is the only" not in model_card(dataclasses.replace(result, config=both))
    made = json.loads(body.split("```json\n")[1].split("```")[0])
    assert made["settings"]["algo"] == "ppo"
    assert made["versions"] == provenance()["versions"]
    assert made["commit"] == commit()


def test_the_card_of_a_resumed_run_has_all_commands_and_the_models_name(result: TrainResult, tmp_path: Path) -> None:
    records = [{"command": "rlhf train -n 2k"}, {"command": "rlhf train --resume"}, {"command": "this one"}]
    (tmp_path / "config.json").write_text(json.dumps({"made": records}))
    nameless = result.config.model_copy(update={"model": None})
    card = model_card(dataclasses.replace(result, folder=tmp_path, config=nameless))
    commands = card.split("## How it was made\n\n```\n")[1].split("\n```")[0].splitlines()
    assert commands == ["rlhf train -n 2k", "rlhf train --resume", provenance()["command"]]
    assert json.loads(card.split("```json\n")[1].split("```")[0])["settings"]["model"] == "some/base"


def test_the_card_of_adapters_names_their_base_and_loads_both(result: TrainResult) -> None:
    policy = SimpleNamespace(model_name="my-adapters", base_name="some/base", picture=None)
    card = model_card(dataclasses.replace(result, agent=SimpleNamespace(num_timesteps=1234, policy=policy)))
    assert "base_model: some/base" in card
    assert 'pipeline("text-generation", load_causal_lm("this/folder"), tokenizer=load_tokenizer("this/folder"))' in card
    assert 'pipeline("text-generation", "this/folder")' in model_card(result)


def test_the_card_of_a_model_of_pictures_loads_it_with_its_processor(result: TrainResult) -> None:
    policy = SimpleNamespace(model_name="tiny-vision", base_name=None, picture=object())
    card = model_card(dataclasses.replace(result, agent=SimpleNamespace(num_timesteps=1234, policy=policy)))
    assert "pipeline_tag: image-text-to-text" in card and 'AutoProcessor.from_pretrained("this/folder")' in card


def test_the_hub_reads_the_cards_metadata_and_results(result: TrainResult) -> None:
    card = ModelCard(model_card(result))
    assert card.data.library_name == "transformers" and "ppo" in card.data.tags
    found = {one.metric_type: one for one in card.data.eval_results}
    assert found["reward"].metric_value == round(result.after.estimates()["reward"].mean, 6)
    assert (found["reward"].dataset_type, found["reward"].dataset_split) == (BANDIT, "test")


def test_texts_of_a_users_own_data_are_in_no_card(result: TrainResult) -> None:
    asked = result.after.completions[0].asked
    assert f'print(write("{asked}")' in model_card(result)
    rows = [{"prompt": "my own secret"}]
    for kwargs in ({"data": rows}, {"tasks": [{"id": BANDIT, "data": rows}, {"id": "rlhf/DialogBandit-v0"}]}):
        config = result.config.model_copy(update={"env_kwargs": kwargs})
        card = model_card(dataclasses.replace(result, config=config))
        assert "my own secret" not in card and "- after: " not in card and f'print(write("{asked}")' not in card
        assert '"data": "1 rows"' in card


def test_a_policy_saves_a_card_that_the_hub_reads_and_leaves_yours_alone(tmp_path: Path) -> None:
    policy = make("ppo", BANDIT, n_envs=2, seed=0).policy
    policy.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == "text-generation" and MARK in card.text
    (tmp_path / "README.md").write_text("mine")
    policy.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_no_password_gets_into_a_card(result: TrainResult) -> None:
    assert "secret" not in model_card(result)


def test_a_card_is_replaced_and_a_users_readme_is_not(
    result: TrainResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert write_model_card(tmp_path, result) == write_model_card(tmp_path, result) == tmp_path / "README.md"
    text = (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text(text.replace(MARK, "mine"))
    with caplog.at_level(logging.WARNING):
        assert write_model_card(tmp_path, result) is None
    assert "is not replaced by a model card" in caplog.text
    assert "mine" in (tmp_path / "README.md").read_text()


def test_a_saved_model_draws_tokens_as_its_policy_does(tmp_path: Path) -> None:
    env_kwargs: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9}
    agent = make("ppo", "rlhf/Sentiment-v0", n_envs=2, seed=0, **env_kwargs)
    agent.policy.save_pretrained(tmp_path, **_generation_options(agent))
    config = GenerationConfig.from_pretrained(tmp_path)
    assert (config.do_sample, config.temperature, config.top_k, config.top_p) == (True, 0.7, 0, 0.9)
    assert (config.max_new_tokens, config.eos_token_id) == (32, [load_tokenizer("tiny").eos_token_id])
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = load_tokenizer("tiny")("the film was", return_tensors="pt")["input_ids"]
    assert model.generate(ids).shape[1] <= ids.shape[1] + 32
    assert model.generation_config.temperature == 0.7


def test_masks_of_the_training_hold_for_the_saved_model(tmp_path: Path) -> None:
    env = {"min_new_tokens": 2, "suppress_tokens": [3]}
    agent = make("maskable_ppo", make_vec_env(BANDIT, 4, **env), seed=0)
    assert _generation_options(agent) == {"max_new_tokens": 3, "eos_token_id": [1], **env}
