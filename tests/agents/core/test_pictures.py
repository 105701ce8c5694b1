"""Policies that read pictures: LLaVA-, Idefics3- and SmolVLM-shaped models from small configs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.algorithms.common.q_policy import QPolicy
from agents.core.policy import TokenPolicy

VOCAB, LENGTH, MARK, PROMPT, ROWS = 50, 14, 49, 7, 3
TEXT: dict[str, Any] = dict(
    vocab_size=VOCAB,
    num_hidden_layers=3,
    hidden_size=32,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=64,
    max_position_embeddings=64,
    bos_token_id=None,
    eos_token_id=1,
    pad_token_id=0,
)
ENCODER: dict[str, Any] = dict(  # as many blocks as the decoder
    hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, patch_size=8
)


def build(shape: str) -> Any:
    """Return a small vision-language model in evaluation mode; a picture has four tokens."""
    import transformers as t

    torch.manual_seed(0)
    text = t.LlamaConfig(**TEXT)
    if shape == "llava":
        encoder = t.CLIPVisionConfig(**ENCODER, image_size=16)
        config = t.LlavaConfig(vision_config=encoder, text_config=text, image_token_id=MARK, vision_feature_layer=-2)
        return t.LlavaForConditionalGeneration(config).eval()
    options = dict(text_config=text, image_token_id=MARK, scale_factor=2, pad_token_id=0)
    if shape == "idefics3":
        config = t.Idefics3Config(vision_config=dict(**ENCODER, image_size=32), **options)
        return t.Idefics3ForConditionalGeneration(config).eval()
    assert shape == "smolvlm"
    config = t.SmolVLMConfig(vision_config=dict(**ENCODER, image_size=32), **options)
    return t.SmolVLMForConditionalGeneration(config).eval()


def observation_space(side: int) -> spaces.Dict:
    return spaces.Dict(
        input_ids=spaces.Box(0, VOCAB - 1, (LENGTH,), np.int64),
        attention_mask=spaces.Box(0, 1, (LENGTH,), np.int8),
        pixel_values=spaces.Box(-3.0, 3.0, (1, 3, side, side), np.float32),
    )


def make_policy(shape: str, policy_class: Any = TokenPolicy, **kwargs: Any) -> Any:
    space = observation_space(16 if shape == "llava" else 32)
    return policy_class(space, spaces.Discrete(VOCAB), lambda _: 1e-3, model=build(shape), **kwargs)


def first_contexts(policy: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return prompts of four image tokens between texts, each with a picture of its own."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros((ROWS, LENGTH), dtype=torch.long)
    ids[:, :PROMPT] = torch.randint(2, 40, (ROWS, PROMPT), generator=generator)
    ids[:, 1:5] = MARK
    mask = (torch.arange(LENGTH) < PROMPT).long().expand(ROWS, -1).clone()
    pixels = torch.randn((ROWS, *policy.observation_space["pixel_values"].shape), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


@torch.no_grad()
def roll_out(policy: Any, obs: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Decode to the end; return the observations of whole sequences, the actions and their log-probabilities."""
    torch.manual_seed(1)
    obs = {key: value.clone() for key, value in obs.items()}
    taken, found = [], []
    for at in range(PROMPT, LENGTH):
        actions, _, log_probs = policy(obs)
        obs["input_ids"][:, at], obs["attention_mask"][:, at] = actions, 1
        taken.append(actions)
        found.append(log_probs)
    rows = torch.arange(ROWS).repeat(LENGTH - PROMPT)
    columns = torch.arange(PROMPT - 1, LENGTH - 1).repeat_interleave(ROWS)
    return obs | {"rows": rows, "columns": columns}, torch.cat(taken), torch.cat(found)


@pytest.mark.parametrize("train", ["full", 1, "head"])
@pytest.mark.parametrize("shape", ["llava", "idefics3", "smolvlm"])
def test_the_updates_log_probabilities_are_those_of_decoding_and_of_the_plain_model(shape: str, train: Any) -> None:
    policy = make_policy(shape, train=train)
    assert policy._actor.cache.enabled
    obs, actions, decoded = roll_out(policy, first_contexts(policy))
    _, log_probs, _ = policy.evaluate_actions(obs, actions)
    assert torch.allclose(log_probs, decoded, atol=1e-4)
    assert torch.allclose(policy.reference_log_prob(obs, actions), decoded, atol=1e-4)
    pixels = obs["pixel_values"].squeeze(1) if shape == "llava" else obs["pixel_values"]
    logits = policy.language_model.model(
        input_ids=obs["input_ids"], attention_mask=obs["attention_mask"], pixel_values=pixels
    ).logits
    logits[..., MARK] = -torch.inf
    plain = logits.log_softmax(-1)[obs["rows"], obs["columns"], actions]
    assert torch.allclose(log_probs, plain, atol=1e-4)


@pytest.mark.parametrize("train", [1, "head"])
def test_stored_states_of_the_frozen_blocks_have_seen_the_picture(train: Any) -> None:
    policy = make_policy("llava", train=train)
    obs, actions, decoded = roll_out(policy, first_contexts(policy))
    states = policy.trunk_states(obs)
    _, log_probs, _ = policy.evaluate_actions(obs | {"trunk_states": states}, actions)
    assert torch.allclose(log_probs, decoded, atol=1e-4)


def test_a_slot_is_encoded_again_when_only_the_picture_changes() -> None:
    policy = make_policy("llava")
    obs = first_contexts(policy)
    first = policy.get_distribution(obs).distribution.logits.detach()
    with torch.no_grad():
        policy(obs)
        other = obs | {"pixel_values": obs["pixel_values"].flip(0)}
        cached = policy.get_distribution(other).distribution.logits
        text_alone = {key: obs[key] for key in ("input_ids", "attention_mask")}
        without = policy.get_distribution(text_alone).distribution.logits
        again = policy.get_distribution(obs).distribution.logits
    fresh = policy.get_distribution(other).distribution.logits.detach()  # with gradients nothing is cached
    assert torch.allclose(cached, fresh, atol=1e-4)
    assert not torch.allclose(cached[0], first[0], atol=1e-3)
    assert not torch.allclose(without[0], first[0], atol=1e-3)
    assert torch.allclose(again, first, atol=1e-4)


def test_equal_prompts_share_an_encoding_only_if_their_pictures_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy("llava")
    obs = first_contexts(policy)
    obs["input_ids"][:] = obs["input_ids"][:1]
    obs["pixel_values"][1] = obs["pixel_values"][0]
    filled: list[int] = []
    fill = policy._actor.cache._fill
    monkeypatch.setattr(policy._actor.cache, "_fill", lambda rows: (filled.append(len(rows)), fill(rows)))
    with torch.no_grad():
        logits = policy.get_distribution(obs).distribution.logits
    assert filled == [2]
    assert torch.equal(logits[0], logits[1]) and not torch.allclose(logits[0], logits[2], atol=1e-3)


def test_a_context_that_grows_by_a_picture_is_encoded_whole() -> None:
    policy = make_policy("llava")
    obs = first_contexts(policy)
    obs["input_ids"][:, 1:5] = 7  # no picture's place at first, and one at the end of a longer context
    longer = {key: value.clone() for key, value in obs.items()}
    longer["input_ids"][:, PROMPT : PROMPT + 4], longer["attention_mask"][:, PROMPT : PROMPT + 4] = MARK, 1
    text = {key: obs[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        policy.get_distribution(text)
        policy._actor.cache._pixels = obs["pixel_values"].squeeze(1).clone()  # the same picture as before
        cached = policy.get_distribution(longer).distribution.logits
    fresh = policy.get_distribution(longer).distribution.logits.detach()
    assert torch.allclose(cached, fresh, atol=1e-4)


def test_the_mark_of_a_picture_is_never_drawn() -> None:
    policy = make_policy("llava")
    with torch.no_grad():
        policy.language_model.model.lm_head.weight[MARK] = 100 * policy.language_model.model.lm_head.weight[3]
    distribution = policy.get_distribution(first_contexts(policy))
    assert (distribution.distribution.probs[:, MARK] == 0).all()
    assert distribution.entropy().isfinite().all()


def test_micro_batches_keep_each_sequences_picture() -> None:
    policy = make_policy("llava", micro_batch_size=LENGTH)
    obs, actions, decoded = roll_out(policy, first_contexts(policy))
    _, log_probs, _ = policy.evaluate_actions(obs, actions)
    assert torch.allclose(log_probs, decoded, atol=1e-4)
    log_probs.sum().backward()
    assert policy.language_model.model.model.vision_tower.embeddings.patch_embedding.weight.grad.abs().sum() > 0


def test_models_that_do_not_fit_are_refused_with_the_reason() -> None:
    import transformers as t

    def policy(model: Any, policy_class: Any = TokenPolicy, **kwargs: Any) -> Any:
        return policy_class(observation_space(16), spaces.Discrete(VOCAB), lambda _: 1e-3, model=model, **kwargs)

    with pytest.raises(ValueError, match="reads no pictures: take 'tiny-vision'"):
        policy(t.LlamaForCausalLM(t.LlamaConfig(**TEXT)))
    with pytest.raises(ValueError, match="pixel_values, which this policy does not read"):
        policy(build("llava"), QPolicy)
    with pytest.raises(ValueError, match="train='lora' with pictures"):
        policy(build("llava"), train="lora")
    with pytest.raises(ValueError, match="name the model that reads them"):
        policy(None)
    other = spaces.Dict({**observation_space(16).spaces, "pixel_values": spaces.Box(0, 1, (1, 4, 16, 16))})
    with pytest.raises(ValueError, match=r"takes no pictures of the shape \(1, 4, 16, 16\)"):
        TokenPolicy(other, spaces.Discrete(VOCAB), lambda _: 1e-3, model=build("llava"))
    text = dict(TEXT, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]})
    encoder = dict(depth=1, embed_dim=16, hidden_size=32, num_heads=2, patch_size=8)
    qwen = t.Qwen2VLConfig(text_config=text, vision_config=encoder, image_token_id=MARK)
    with pytest.raises(ValueError, match="positions of several axes"):
        policy(t.Qwen2VLForConditionalGeneration(qwen))


def test_a_vision_language_model_without_pictures_is_refused_as_before() -> None:
    text_alone = spaces.Dict({key: observation_space(16)[key] for key in ("input_ids", "attention_mask")})
    with pytest.raises(ValueError, match="reads more than text"):
        TokenPolicy(text_alone, spaces.Discrete(VOCAB), lambda _: 1e-3, model=build("llava"))
