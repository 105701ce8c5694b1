"""TRL and this package read each other's reward models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from rlhf_envs.models import load_tokenizer
from rlhf_envs.preferences import evaluate_pairs, fit_ensemble
from rlhf_envs.preferences.bradley_terry import pair_differences
from rlhf_envs.preferences.ensemble_fit import ensemble_differences
from rlhf_envs.rewards import evaluate_reward, get_reward
from rlhf_envs.rewards.ensemble import RewardEnsemble
from rlhf_envs.rewards.reward_model import RewardModel, load_classifier

SIZES: dict[str, Any] = dict(n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=1)
PAIRS = [
    {"prompt": f"{opening} was ", "chosen": f"{how} good film", "rejected": f"{how} bad film"}
    for opening in ("it", "this", "that movie", "the plot")
    for how in ("a", "such a", "one", "the")
]
QUIET = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no", "use_cpu": True}


def save_backbone(folder: Path, kind: Any = GPT2ForSequenceClassification) -> str:
    torch.manual_seed(0)
    tokenizer = load_tokenizer("tiny")
    config = GPT2Config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **SIZES)
    config.num_labels = 1
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_model_that_trl_trained_serves_here(trl: Any, tmp_path: Path) -> None:
    from datasets import Dataset  # type: ignore[import-untyped]
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, PrinterCallback

    folder = save_backbone(tmp_path / "start")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trainer = trl.RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(folder),
        args=trl.RewardConfig(
            output_dir=str(tmp_path / "run"),
            num_train_epochs=20,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            bf16=False,
            gradient_checkpointing=False,
            **QUIET,
        ),
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model(str(tmp_path / "trl"))
    reward: Any = get_reward(str(tmp_path / "trl"))
    assert isinstance(reward, RewardModel)
    good, bad = reward.score(["it was ", "it was "], ["a good film", "a bad film"])
    assert good > bad
    classifier, loaded = load_classifier(str(tmp_path / "trl"))
    assert evaluate_pairs(classifier, loaded, PAIRS).accuracy == 1.0
    trainer.model.eval()
    theirs = pair_differences(trainer.model, loaded, PAIRS)
    np.testing.assert_allclose(pair_differences(classifier, loaded, PAIRS), theirs, atol=1e-4)


@pytest.mark.parametrize("form", ["folder", "callable"])
def test_a_model_saved_here_is_a_reward_in_trls_grpo(trl: Any, tmp_path: Path, form: str) -> None:
    from datasets import Dataset
    from transformers import PrinterCallback

    ensemble = fit_ensemble(
        save_backbone(tmp_path / "start"), PAIRS, PAIRS, members=2, epochs=10, batch_size=8, learning_rate=1e-2
    )
    ensemble.save_pretrained(tmp_path / "reward")
    seen: list[float] = []

    class Recorded(RewardEnsemble):
        def score(self, prompts: Any, completions: Any, **columns: object) -> Any:
            scores = super().score(prompts, completions, **columns)
            seen.extend(scores.tolist())
            return scores

    trainer = trl.GRPOTrainer(
        model=save_backbone(tmp_path / "policy", GPT2LMHeadModel),
        reward_funcs=str(tmp_path / "reward") if form == "folder" else Recorded(tmp_path / "reward"),
        args=trl.GRPOConfig(
            output_dir=str(tmp_path / "run"),
            max_steps=2,
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=4,
            learning_rate=1e-2,
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=1,
            **{key: value for key, value in QUIET.items() if key != "logging_strategy"},
        ),
        train_dataset=Dataset.from_dict({"prompt": [str(pair["prompt"]) for pair in PAIRS]}),
        processing_class=load_tokenizer("tiny"),
    )
    trainer.remove_callback(PrinterCallback)
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    trainer.train()
    logged = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert len(logged) == 2
    assert np.isfinite(logged).all()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    if form == "folder":
        theirs = pair_differences(trainer.reward_funcs[0], load_tokenizer("tiny"), PAIRS)
        np.testing.assert_allclose(theirs, ensemble_differences(ensemble, PAIRS), atol=1e-4)
    else:
        np.testing.assert_allclose(logged, np.mean(np.reshape(seen, (2, 4)), axis=1), atol=1e-4)


def test_trls_own_reward_function_works_and_needs_the_tokens(trl: Any) -> None:
    from trl.rewards import get_soft_overlong_punishment

    too_long = get_soft_overlong_punishment(4, 2)
    ids = [[1] * 2, [1] * 3, [1] * 9]
    scores = evaluate_reward(too_long, ["a"] * 3, ["b"] * 3, {"completion_ids": ids, "label": [0] * 3})[0]
    assert scores.tolist() == [0.0, -0.5, -1.0]
    with pytest.raises(ValueError, match=r"'soft_overlong_punishment_reward' declares completion_ids, and only texts"):
        evaluate_reward(too_long, ["a"], ["b"], {})
