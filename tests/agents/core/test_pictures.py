"""Policies that read pictures: LLaVA-, Idefics3-, SmolVLM- and Qwen2-VL-shaped models from small configs."""

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
    if shape in ("qwen2_vl", "qwen2_5_vl"):
        return build_qwen(shape)
    options = dict(text_config=text, image_token_id=MARK, scale_factor=2, pad_token_id=0)
    if shape == "idefics3":
        config = t.Idefics3Config(vision_config=dict(**ENCODER, image_size=32), **options)
        return t.Idefics3ForConditionalGeneration(config).eval()
    assert shape == "smolvlm"
    config = t.SmolVLMConfig(vision_config=dict(**ENCODER, image_size=32), **options)
    return t.SmolVLMForConditionalGeneration(config).eval()


def build_qwen(shape: str) -> Any:
    """Return a small model whose positions have three axes; a picture of 32 x 32 pixels has two rows of two tokens."""
    import transformers as t

    text: dict[str, Any] = dict(
        TEXT, rope_parameters={"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 1, 1]}
    )
    sizes: dict[str, Any] = dict(patch_size=8, spatial_merge_size=2, temporal_patch_size=2, depth=2, num_heads=2)
    if shape == "qwen2_vl":
        encoder: dict[str, Any] = dict(embed_dim=16, hidden_size=32, mlp_ratio=2, **sizes)
        config = t.Qwen2VLConfig(text_config=text, vision_config=encoder, image_token_id=MARK)
        return t.Qwen2VLForConditionalGeneration(config).eval()
    encoder = dict(hidden_size=16, out_hidden_size=32, intermediate_size=32, fullatt_block_indexes=[1], window_size=32)
    config = t.Qwen2_5_VLConfig(text_config=text, vision_config={**encoder, **sizes}, image_token_id=MARK)
    return t.Qwen2_5_VLForConditionalGeneration(config).eval()


def plain_arguments(shape: str, obs: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return what the plain model is given for whole sequences; Qwen's has its processor's patches."""
    given = {key: obs[key] for key in ("input_ids", "attention_mask")}
    if "qwen" not in shape:
        return given | {"pixel_values": obs["pixel_values"].squeeze(1) if shape == "llava" else obs["pixel_values"]}
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    cut = [Qwen2VLImageProcessorPil().patchify(picture, 8, 2, 2) for picture in obs["pixel_values"].squeeze(1).numpy()]
    grid = torch.tensor([[1, height, width] for _, height, width in cut])
    patches = torch.cat([torch.from_numpy(one) for one, _, _ in cut])
    return given | dict(pixel_values=patches, image_grid_thw=grid, mm_token_type_ids=(obs["input_ids"] == MARK).int())


def observation_space(height: int, width: int | None = None) -> spaces.Dict:
    return spaces.Dict(
        input_ids=spaces.Box(0, VOCAB - 1, (LENGTH,), np.int64),
        attention_mask=spaces.Box(0, 1, (LENGTH,), np.int8),
        pixel_values=spaces.Box(-3.0, 3.0, (1, 3, height, width or height), np.float32),
    )


def make_policy(shape: str, policy_class: Any = TokenPolicy, **kwargs: Any) -> Any:
    sizes = {"llava": (16,), "qwen2_5_vl": (16, 64)}  # the last has its four tokens in one row
    space = observation_space(*sizes.get(shape, (32,)))
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
@pytest.mark.parametrize("shape", ["llava", "idefics3", "smolvlm", "qwen2_vl", "qwen2_5_vl"])
def test_the_updates_log_probabilities_are_those_of_decoding_and_of_the_plain_model(shape: str, train: Any) -> None:
    policy = make_policy(shape, train=train)
    assert policy._actor.cache.enabled
    obs, actions, decoded = roll_out(policy, first_contexts(policy))
    _, log_probs, _ = policy.evaluate_actions(obs, actions)
    assert torch.allclose(log_probs, decoded, atol=1e-4)
    assert torch.allclose(policy.reference_log_prob(obs, actions), decoded, atol=1e-4)
    logits = policy.language_model.model(**plain_arguments(shape, obs)).logits
    logits[..., MARK] = -torch.inf
    plain = logits.log_softmax(-1)[obs["rows"], obs["columns"], actions]
    assert torch.allclose(log_probs, plain, atol=1e-4)


@pytest.mark.parametrize(("shape", "train"), [("llava", 1), ("llava", "head"), ("qwen2_vl", 1)])
def test_stored_states_of_the_frozen_blocks_have_seen_the_picture(shape: str, train: Any) -> None:
    policy = make_policy(shape, train=train)
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


@pytest.mark.parametrize("shape", ["llava", "qwen2_vl"])
def test_adapters_learn_in_the_decoder_alone_and_the_model_without_them_is_the_reference(shape: str) -> None:
    plain = make_policy(shape)
    policy = make_policy(shape, train="lora", lora={"r": 4})
    obs, actions, decoded = roll_out(policy, first_contexts(policy))
    assert torch.allclose(decoded, plain.log_prob(obs, actions), atol=1e-5)
    learns = [name for name, p in policy.named_parameters() if p.requires_grad and "lora_" in name]
    assert learns and all(".language_model.layers." in name for name in learns)
    adapted = {name.partition(".lora_")[0].rpartition(".")[2] for name in learns}
    assert adapted == {*("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")}
    _, log_probs, _ = policy.evaluate_actions(obs, actions)
    log_probs.sum().backward()
    policy.optimizer.step()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    moved, actions, decoded = roll_out(policy, first_contexts(policy))
    _, log_probs, _ = policy.evaluate_actions(moved, actions)
    assert torch.allclose(log_probs, decoded, atol=1e-4)
    expected = plain.log_prob(moved, actions)
    assert torch.allclose(policy.reference_log_prob(moved, actions), expected, atol=1e-5)
    assert not torch.allclose(decoded, expected, atol=1e-2)
    other = moved | {"pixel_values": moved["pixel_values"].flip(0)}
    assert not torch.allclose(policy.log_prob(other, actions), decoded, atol=1e-3)


def test_a_user_says_which_other_layers_get_adapters() -> None:
    lora = {"r": 4, "target_modules": ["q_proj"], "exclude_modules": ["k_proj"]}
    names = [name for name, p in make_policy("llava", train="lora", lora=lora).named_parameters() if "lora_" in name]
    assert any("vision_tower" in name for name in names) and any(".language_model." in name for name in names)


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
    with pytest.raises(ValueError, match=r"Q values .* read no pictures: take one with TokenPolicy"):
        policy(build("llava"), QPolicy)
    with pytest.raises(ValueError, match="name the model that reads them"):
        policy(None)
    other = spaces.Dict({**observation_space(16).spaces, "pixel_values": spaces.Box(0, 1, (1, 4, 16, 16))})
    with pytest.raises(ValueError, match=r"takes no pictures of the shape \(1, 4, 16, 16\)"):
        TokenPolicy(other, spaces.Discrete(VOCAB), lambda _: 1e-3, model=build("llava"))


def test_what_does_not_fit_positions_of_several_axes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers as t

    with pytest.raises(ValueError, match=r"packing=True: the positions of Qwen2VL.* have several axes"):
        make_policy("qwen2_vl", packing=True)
    assert make_policy("qwen2_vl")._actor.packs is False
    small = observation_space(24)
    with pytest.raises(ValueError, match=r"shape \(1, 3, 24, 24\): it needs \(1, 3, k \* 16, l \* 16\)"):
        TokenPolicy(small, spaces.Discrete(VOCAB), lambda _: 1e-3, model=build("qwen2_vl"))
    text: dict[str, Any] = dict(
        TEXT, head_dim=8, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    )
    sizes: dict[str, Any] = dict(
        depth=2, num_heads=2, patch_size=8, hidden_size=16, out_hidden_size=32, intermediate_size=32
    )
    encoder: dict[str, Any] = dict(deepstack_visual_indexes=[0], num_position_embeddings=16, **sizes)
    config = t.Qwen3VLConfig(text_config=text, vision_config=encoder, image_token_id=MARK)
    with pytest.raises(ValueError, match=r"qwen3_vl.* the picture a second time \(deepstack\)"):
        TokenPolicy(
            observation_space(32),
            spaces.Discrete(VOCAB),
            lambda _: 1e-3,
            model=t.Qwen3VLForConditionalGeneration(config),
        )
    model = build("qwen2_vl")
    own = model.model.get_rope_index
    monkeypatch.setattr(model.model, "get_rope_index", lambda *a, **k: (own(*a, **k)[0] + 1, None))
    with pytest.raises(ValueError, match="other ones than Qwen2-VL's"):
        TokenPolicy(observation_space(32), spaces.Discrete(VOCAB), lambda _: 1e-3, model=model)


def test_a_vision_language_model_without_pictures_is_refused_as_before() -> None:
    text_alone = spaces.Dict({key: observation_space(16)[key] for key in ("input_ids", "attention_mask")})
    with pytest.raises(ValueError, match="reads more than text"):
        TokenPolicy(text_alone, spaces.Discrete(VOCAB), lambda _: 1e-3, model=build("llava"))
