"""Reward models on any device: what CUDA computes is what the CPU computes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from rlhf_envs.models import load_tokenizer
from rlhf_envs.preferences import evaluate_pairs, fit_bradley_terry, fit_ensemble, load_backbone
from rlhf_envs.preferences.fitting import fit_reward
from rlhf_envs.rewards.ensemble import RewardEnsemble
from rlhf_envs.rewards.reward_model import RewardModel

PROMPTS, COMPLETIONS = ["this movie was", "the acting is", ""], [" wonderful.", " so awful that i left.", "bad"]


def pairs_by_word(n: int, seed: int) -> list[dict[str, object]]:
    """Pairs in which the text with "good" is chosen, whatever else it says."""
    generator = random.Random(seed)
    words = ["the", "film", "plot", "and", "it", "actor"]
    return [
        {"prompt": "it was ", "chosen": f"{generator.choice(words)} good", "rejected": f"{generator.choice(words)} bad"}
        for _ in range(n)
    ]


@pytest.fixture
def backbone(tmp_path: Path) -> str:
    torch.manual_seed(0)
    tokenizer = load_tokenizer("tiny")
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=32, n_embd=16, n_layer=1, n_head=2, pad_token_id=0)
    config.num_labels = 1
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path / "backbone")
    tokenizer.save_pretrained(tmp_path / "backbone")
    return str(tmp_path / "backbone")


def test_a_reward_model_scores_as_on_the_cpu(any_device: str) -> None:
    here, there = RewardModel(), RewardModel(device=any_device)
    assert there.model.device.type == any_device
    np.testing.assert_allclose(there.score(PROMPTS, COMPLETIONS), here.score(PROMPTS, COMPLETIONS), atol=1e-4)


def test_a_reward_model_learns(any_device: str, backbone: str) -> None:
    model, tokenizer = load_backbone(backbone)
    model.to(any_device)
    held_out = pairs_by_word(40, seed=1)
    options = dict(epochs=2, batch_size=16, learning_rate=3e-3)
    after = fit_bradley_terry(model, tokenizer, pairs_by_word(160, seed=2), held_out, **options)
    assert after.accuracy > 0.95
    assert evaluate_pairs(model.cpu(), tokenizer, held_out).loss == pytest.approx(after.loss, rel=1e-3)


@pytest.mark.parametrize("shared_trunk", [True, False])
def test_an_ensemble_moves_between_devices(shared_trunk: bool, any_device: str, backbone: str, tmp_path: Path) -> None:
    pairs, held_out = pairs_by_word(16, seed=1), pairs_by_word(8, seed=2)
    there = fit_ensemble(backbone, pairs, held_out, members=2, shared_trunk=shared_trunk, device=any_device)
    there.save_pretrained(tmp_path / "ensemble")
    for device in ("cpu", any_device):
        scores = RewardEnsemble(tmp_path / "ensemble", device=device).score(PROMPTS, COMPLETIONS)
        np.testing.assert_allclose(scores, there.score(PROMPTS, COMPLETIONS), atol=1e-4)


def test_drawing_a_head_leaves_the_generators_of_cuda_alone(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent on the GPU draws its tokens from them."""
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    load_backbone(backbone, seed=3)
    fit_ensemble(backbone, pairs_by_word(4, seed=1), pairs_by_word(4, seed=2), members=2, seed=3)
    assert not seeded
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named_before_anything_is_loaded(backbone: str, tmp_path: Path) -> None:
    for build in (
        lambda: RewardModel("no-such-model", device="cuda"),
        lambda: RewardEnsemble(tmp_path / "none", device="cuda"),
        lambda: fit_reward(pairs_by_word(8, seed=1), tmp_path / "reward", model=backbone, device="cuda"),
    ):
        with pytest.raises(ValueError, match="device 'cuda': "):
            build()
    assert not (tmp_path / "reward").exists()
