"""The trunk, the head and what of them learns, on every shape of model."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from agents.core.forward_pass import find_blocks
from agents.core.language_model import LanguageModel
from tests.agents.conftest import GROUPED, SIZES


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(2, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(9) < torch.tensor([[9], [4], [6]])).long()
    return ids, mask


def test_gathered_logits_equal_the_models_own(any_shape, small_model):
    model = small_model(any_shape)
    ids, mask = _batch()
    rows, columns = torch.tensor([0, 0, 1, 2]), torch.tensor([3, 8, 3, 5])
    logits = LanguageModel(model).logits(ids, mask, rows, columns)
    with torch.no_grad():
        for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
            alone = model(input_ids=ids[row : row + 1, : column + 1], use_cache=False).logits[0, -1]
            torch.testing.assert_close(logits[i], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("train", [1, 2])
def test_k_trains_the_last_blocks_the_final_norm_and_the_head(any_shape, small_model, train):
    language_model = LanguageModel(small_model(any_shape), train)
    ids, mask = _batch()
    with torch.no_grad():
        entering: list[torch.Tensor] = []
        block = find_blocks(language_model.model, 3)[3 - train]
        hook = block.register_forward_pre_hook(
            lambda _m, args, kwargs: entering.append(args or kwargs), with_kwargs=True
        )
        language_model.logits(ids, mask, torch.tensor([0]), torch.tensor([5]))
        hook.remove()
    language_model.logits(ids, mask, torch.tensor([0]), torch.tensor([5])).sum().backward()
    trained = language_model.trained_parameters()
    blocks = find_blocks(language_model.model, 3)
    for i, block in enumerate(blocks):
        assert all(p.requires_grad == (i >= 3 - train) for p in block.parameters()), f"block {i}"
    head = language_model.model.get_output_embeddings().weight
    assert any(p is head for p in trained.values())
    assert not language_model.model.get_input_embeddings().weight.requires_grad
    others = set(trained) - {
        n for n, p in language_model.named_parameters() if any(p is q for q in blocks.parameters())
    }
    assert any("norm" in name or "ln_f" in name for name in others), "the final norm learns"


def test_head_trains_the_output_embedding_alone(slotted_shape, small_model):
    language_model = LanguageModel(small_model(slotted_shape), "head")
    head = language_model.model.get_output_embeddings()
    assert {id(p) for p in language_model.trained_parameters().values()} == {id(p) for p in head.parameters()}


def test_the_soft_cap_of_gemma_bites(small_model):
    model = small_model("gemma2")
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(300)
    ids, mask = _batch()
    logits = LanguageModel(model).logits(ids, mask, torch.arange(3), torch.tensor([8, 3, 5]))
    assert 20 < logits.abs().max() <= 30, "Gemma 2 caps its logits at 30"


def test_a_projected_output_has_the_heads_width(small_model):
    from transformers import OPTConfig, OPTForCausalLM

    config = small_model("opt").config.to_dict() | {"word_embed_proj_dim": 16}
    assert LanguageModel(OPTForCausalLM(OPTConfig(**config)).eval()).hidden_size == 16


def test_untying_the_head_leaves_the_logits_alone(small_model):
    ids, mask = _batch()
    rows, columns = torch.arange(3), torch.tensor([8, 3, 5])
    before = LanguageModel(small_model("gpt2"), "full").logits(ids, mask, rows, columns)
    after = LanguageModel(small_model("gpt2"), "head").logits(ids, mask, rows, columns)
    assert torch.equal(before, after)


@pytest.mark.parametrize("train", [4, -1, 1.5, True, "lm_head"])
def test_an_impossible_part_to_train_is_an_error(small_model, train):
    with pytest.raises(ValueError, match="expected 'full', 'lora', 'head' or a number of last blocks, 0 to 3"):
        LanguageModel(small_model("gpt2"), train)


def test_a_model_with_another_head_is_refused(small_model):
    model = small_model("gpt2")
    model.lm_head.register_forward_hook(lambda module, args, output: output)
    original = model.forward
    model.forward = lambda **kwargs: _scaled(original(**kwargs))
    with pytest.raises(ValueError, match="not its output embedding applied to its last hidden state"):
        LanguageModel(model)


def _scaled(output):
    output.logits = output.logits * 2 + 1
    return output


@pytest.mark.parametrize("config", ["bert", "gemma3", "xlnet"])
def test_a_bidirectional_model_is_refused_by_name(config):
    import transformers as t

    made = {
        "bert": lambda: t.BertConfig(**SIZES),
        "gemma3": lambda: t.Gemma3TextConfig(**GROUPED, head_dim=8, use_bidirectional_attention=True),
        "xlnet": lambda: t.XLNetConfig(vocab_size=50, d_model=32, n_layer=2, n_head=4, d_inner=64),
    }[config]()
    model = t.AutoModelForCausalLM.from_config(made).eval()
    with pytest.raises(ValueError, match=rf"{type(model).__name__} is bidirectional: another last token changes"):
        LanguageModel(model)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's
def test_a_model_of_two_positions_is_checked_and_merged():
    model = LanguageModel(
        GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=2, n_layer=1, n_embd=8, n_head=2)), "lora"
    )
    ids = torch.tensor([[0, 3]])
    merged = model.adapters.merged()
    torch.testing.assert_close(merged(input_ids=ids).logits, model.model(input_ids=ids).logits)
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]


def test_an_encoder_decoder_is_refused_by_name():
    from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

    sizes = dict(vocab_size=50, d_model=16, pad_token_id=0)
    t5 = T5ForConditionalGeneration(T5Config(**sizes, d_ff=16, d_kv=4, num_layers=1, num_heads=2))
    layers = dict(encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2)
    bart = BartForConditionalGeneration(BartConfig(**sizes, **layers, encoder_ffn_dim=16, decoder_ffn_dim=16))
    for model in (t5, bart):
        with pytest.raises(ValueError, match=rf"this {type(model).__name__} is an encoder-decoder \((t5|bart)\): its"):
            LanguageModel(model)


def test_a_model_of_pictures_is_refused_and_the_text_model_of_the_guide_has_its_logits():
    from transformers import AutoModelForCausalLM, LlavaConfig, LlavaForConditionalGeneration

    vision = dict(model_type="clip_vision_model", hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    vision |= dict(num_attention_heads=2, image_size=4, patch_size=2)
    config = LlavaConfig(text_config=dict(GROUPED, model_type="llama"), vision_config=vision, image_token_index=49)
    model = LlavaForConditionalGeneration(config).eval()
    with pytest.raises(ValueError, match=r"this LlavaFor\w+ \(llava\) reads more than text \(vision_config\)"):
        LanguageModel(model)
    text = AutoModelForCausalLM.from_config(model.config.get_text_config())
    text.model, text.lm_head = model.get_decoder(), model.lm_head
    ids, mask = _batch()
    logits = LanguageModel(text.eval()).logits(ids, mask, torch.arange(3), torch.tensor([8, 3, 5]))
    expected = model(input_ids=ids, attention_mask=mask).logits[torch.arange(3), torch.tensor([8, 3, 5])]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)


def test_a_model_that_multiplies_where_granite_divides_has_its_own_logits():
    import transformers as t

    if not hasattr(t, "HyperCLOVAXConfig"):
        pytest.skip("this transformers has no such model")
    model = LanguageModel(t.HyperCLOVAXForCausalLM(t.HyperCLOVAXConfig(**GROUPED, logits_scaling=0.25)).eval())
    assert model.scale == 0.25
