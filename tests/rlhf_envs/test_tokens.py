"""Texts as tokens: one context, each special token once, and no character cut in two."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rlhf_envs.dialogs import Dialog
from rlhf_envs.tasks import Task
from rlhf_envs.text_env import TextGenerationEnv
from rlhf_envs.tokens import (
    check_text,
    common_ending,
    completion_texts,
    decode,
    encode_after,
    encode_completion,
    encode_texts,
    end_ids,
    keep_end,
    keep_start,
    prompt_text,
)
from tests.rlhf_envs.small_models import byte_level, llama_style, save_model

TOKENIZERS = {
    "bytes": byte_level(),
    "bytes with BOS": byte_level(bos=True),
    "bytes with a space": byte_level(space=True),
    "llama": llama_style(),
    **{f"metaspace {prepend}": llama_style(prepend) for prepend in ("always", "first", "never")},
}
PROMPTS = ["the film was", "the film (", "电影很好看，", "<s>the film"]
CHAT = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(params=TOKENIZERS, ids=str)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]


def test_a_text_begins_with_the_tokenizers_special_tokens_once(tokenizer: PreTrainedTokenizerFast) -> None:
    adds = tokenizer("a")["input_ids"][0] == 1
    for text, ids in zip(PROMPTS, encode_texts(tokenizer, PROMPTS), strict=True):
        assert ids.count(1) == (adds or text.startswith("<s>"))
        assert prompt_text(tokenizer, ids, text) == text


def test_many_texts_are_read_anew_where_the_tokenizer_or_the_texts_are_others() -> None:
    tokenizer, texts = byte_level(), [f"text {i} of many" for i in range(100)]
    first = encode_texts(tokenizer, texts)
    assert first == [encode_texts(tokenizer, [text])[0] for text in texts]
    first[0].append(7)
    assert encode_texts(tokenizer, texts)[0] == first[0][:-1]
    assert encode_texts(tokenizer, texts[::-1])[-1] == first[0][:-1]
    tokenizer.add_tokens(["text 1 "])
    added = encode_texts(tokenizer, texts)
    assert added == [encode_texts(tokenizer, [text])[0] for text in texts]
    assert len(added[1]) < len(first[1])


def test_an_empty_text_has_only_what_the_tokenizer_adds(tokenizer: PreTrainedTokenizerFast) -> None:
    added = tokenizer("")["input_ids"]
    texts = ["", "the", ""]
    assert encode_texts(tokenizer, texts, closed=True) == [added, tokenizer("the")["input_ids"], added]
    assert encode_texts(tokenizer, [""]) == [added]
    assert encode_completion(tokenizer, "", 4) == ([2], False), "an agent writes only EOS"


def test_a_finished_turn_of_a_template_ends_with_its_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    good = encode_after(tokenizer, " good")
    for text in (" good", " good</s>", " good</s>\n"):
        assert encode_completion(tokenizer, text, 99) == ([*good, 2], False)
    assert common_ending(tokenizer, ["a</s>\n", "b</s>\n", "c</s>"]) == "</s>\n"
    assert common_ending(tokenizer, ["a</s>", "b", "c"]) == common_ending(tokenizer, []) == ""


def test_prompts_of_a_template_have_the_templates_tokens() -> None:
    tokenizer = byte_level(bos=True)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    )
    messages = [{"role": "user", "content": "hi"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    expected = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert encode_texts(tokenizer, [text]) == [expected]


def test_closed_texts_end_with_the_tokenizers_special_tokens_once() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A </s>", None, [("<s>", 1), ("</s>", 2)])
    once = encode_texts(tokenizer, ["hi", "<s>hi</s>"], closed=True)
    assert once[0] == once[1] == tokenizer("hi")["input_ids"]
    assert encode_texts(tokenizer, ["hi", "hi</s>"]) == [once[0][:-1], once[0]], "an EOS of the data stays"


@pytest.mark.parametrize(("lstrip", "rstrip"), [(True, False), (False, True), (True, True)])
def test_special_tokens_that_swallow_spaces_are_read_after_any_text(lstrip: bool, rstrip: bool) -> None:
    tokenizer = byte_level()
    tokens = [AddedToken(name, lstrip=lstrip, rstrip=rstrip, special=True) for name in ("</s>", "<|im_end|>")]
    tokenizer.add_special_tokens({"eos_token": tokens[0], "additional_special_tokens": tokens[1:]})
    good = encode_after(tokenizer, " good")
    assert encode_completion(tokenizer, " good </s>\n", 99)[0] == [*(good if lstrip else [*good, good[0]]), 2]
    assert encode_after(tokenizer, "<|im_end|>") == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    prompt = "hi <|im_end|> there"
    context = encode_texts(tokenizer, [prompt])[0]
    assert prompt_text(tokenizer, context, prompt) == prompt
    assert completion_texts(tokenizer, [context], [good]) == [" good"]


def test_a_tokenizer_of_word_pieces_keeps_its_marks_and_what_it_can_write() -> None:
    """As BERT's: it lower-cases, puts [CLS] and [SEP] around a text, and writes a space before every word."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "film", "was", "good", "##s", "."]
    model = models.WordPiece(vocab={name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    inner = Tokenizer(model)
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    marks = dict(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **marks)
    (context,) = encode_texts(tokenizer, ["The films"])
    assert context == [2, 4, 5, 8]
    assert prompt_text(tokenizer, context, "The films") == "the films", "the letters that the policy read"
    assert encode_completion(tokenizer, " was good.", 9) == ([6, 7, 9, 3], False)
    assert completion_texts(tokenizer, [context], [[6, 7, 9]]) == [" was good."]
    assert encode_texts(tokenizer, ["[CLS] the [SEP]", "the"], closed=True) == [[2, 4, 3]] * 2


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("text", [" good", "bad)", "好看", "\n\nwas", "  two"])
def test_what_follows_a_prompt_is_read_as_it_is_written(
    tokenizer: PreTrainedTokenizerFast, prompt: str, text: str
) -> None:
    context = encode_texts(tokenizer, [prompt])[0]
    assert completion_texts(tokenizer, [context], [encode_after(tokenizer, text)]) == [text]


def test_a_completion_that_begins_inside_a_character_takes_nothing_of_the_prompt(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    inside = encode_after(tokenizer, "好")[1:2]
    context = encode_texts(tokenizer, ["很好"])[0]
    assert completion_texts(tokenizer, [context], [inside + encode_after(tokenizer, "a")]) == ["\ufffda"]


def test_a_completion_that_was_cut_ends_with_a_whole_character(tokenizer: PreTrainedTokenizerFast) -> None:
    context, good = encode_texts(tokenizer, ["很"])[0], encode_after(tokenizer, "好")
    for n in (1, 2):
        assert completion_texts(tokenizer, [context], [good + good[:n]], [True]) == ["好"]
    assert completion_texts(tokenizer, [context], [good], [True]) == ["好"]


def test_long_texts_are_cut_between_characters(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "电影aé很😀好看"
    ids, after = encode_texts(tokenizer, [text])[0], encode_after(tokenizer, text)
    adds = ids[0] == 1
    for limit in range(4 + adds, len(ids)):
        end, start = keep_end(tokenizer, ids, limit), keep_start(tokenizer, after, limit)
        assert limit - 3 <= len(end) <= limit
        assert (end[0] == 1) is adds, "a cut text keeps its BOS"
        assert text.endswith(prompt_text(tokenizer, end, text).lstrip())
        assert text.startswith(decode(tokenizer, start))


def test_half_a_character_is_an_error_that_names_its_place() -> None:
    with pytest.raises(ValueError, match=r"^data.jsonl, row 2 has half a character, '\\ud83d' at place 3"):
        check_text("hi \ud83d", "data.jsonl, row 2")
    with pytest.raises(ValueError, match=r"row 1 of the data: 'prompt' has half a character"):
        TextGenerationEnv(Opening, reward_fn=zero, data=[{"prompt": "a"}, {"prompt": "\ud83d"}])


class Opening(Task):
    """Show the prompts of `data` to a model."""

    max_prompt_tokens = 60
    max_new_tokens = 8


def zero(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [0.0] * len(prompts)


def open_env(folder: Path, tokenizer: PreTrainedTokenizerFast, prompt: str, config: Any = None, **options: Any) -> Any:
    model = save_model(folder, tokenizer, **(config or {}))
    options = {"reward_fn": zero, "task": Opening, **options}
    env = TextGenerationEnv(model=model, data=[{"prompt": prompt}], **options)
    env.reset(seed=0)
    return env


def finish(env: Any, actions: list[int]) -> dict[str, Any]:
    for action in actions:
        *_, ended, _, info = env.step(action)
    assert ended
    return dict(info)


def test_rewards_read_role_marks_and_no_text_without_them(tmp_path: Path) -> None:
    tokenizer = byte_level(eos="<|im_end|>")
    env = open_env(tmp_path, tokenizer, CHAT)
    info = finish(env, [*encode_after(tokenizer, "yes<s>"), tokenizer.pad_token_id, tokenizer.eos_token_id])
    assert info["prompt"] == CHAT
    assert info["completion"] == "yes<s>", "what ends or pads a text is no part of it, other special tokens are"


def test_an_eos_that_marks_turns_in_the_prompt_marks_them_in_the_completion(tmp_path: Path) -> None:
    class Asks(Opening):
        max_new_tokens = 80
        reply_format = "\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"

        def replies(self, dialogs: Sequence[Dialog]) -> list[str | None]:
            return ["why?" if dialog.turn == 1 else None for dialog in dialogs]

    tokenizer = byte_level(eos="<|im_end|>")
    env = open_env(tmp_path, tokenizer, CHAT, task=Asks)
    word, end = encode_after(tokenizer, "so"), tokenizer.eos_token_id
    info = finish(env, [*word, end, *word, end])
    assert info["completion"] == "so<|im_end|>\n<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\nso"


def test_a_reply_is_read_without_a_space_that_it_does_not_have(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    class Closes(Opening):
        max_new_tokens, reply_format = 20, "{text}"

        def replies(self, dialogs: Sequence[Dialog]) -> list[str | None]:
            return [")好 (a)" if dialog.turn == 1 else None for dialog in dialogs]

    env = open_env(tmp_path, tokenizer, "the film (", task=Closes)
    good = encode_after(tokenizer, "good")
    assert finish(env, [*good, 2, *good, 2])["completion"] == "good)好 (a)good"


@pytest.mark.parametrize("token", [2, 4])
def test_every_eos_of_the_models_configuration_ends_an_episode(tmp_path: Path, token: int) -> None:
    env = open_env(tmp_path, byte_level(), "hi", {"eos_token_id": [2, 4]}, min_new_tokens=1)
    assert env.episodes.ends == [2, 4]
    assert not env.action_masks()[[2, 4]].any(), "min_new_tokens masks all of them"
    assert finish(env, [10, token])["completion"] == decode(env.tokenizer, [10])


def test_an_eos_outside_the_vocabulary_is_left_out_with_a_warning_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = byte_level()
    model = save_model(tmp_path, tokenizer, eos_token_id=[2, 5000])
    with caplog.at_level(logging.WARNING):
        assert end_ids(tokenizer, model) == [2]
    assert f"EOS is 5000, and the tokenizer of {model!r} has {len(tokenizer)} tokens" in caplog.text
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"EOS is 5000.*it can never be chosen: give"):
        end_ids(tokenizer, save_model(tmp_path, tokenizer, eos_token_id=5000))


def test_a_cut_prompt_reaches_rewards_as_the_policy_read_it(tmp_path: Path) -> None:
    env = open_env(tmp_path, byte_level(bos=True), "很好看", max_prompt_tokens=6)
    assert np.array_equal(env.reset()[0]["input_ids"][:4], [1, *encode_after(env.tokenizer, "看")])
    assert finish(env, [2])["prompt"] == "看"


def test_functions_are_given_the_completions_tokens_if_they_declare_them(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def reward(completion_ids: Any, finish_reasons: Any, prompts: Any, completions: Any, **columns: Any) -> list[float]:
        seen.update(columns, ids=completion_ids, reasons=finish_reasons)
        return [float(len(ids)) for ids in completion_ids]

    env = open_env(tmp_path, byte_level(), "hi", reward_fn=reward)
    assert finish(env, [10, 2])["reward_components"] == {"reward": 2.0}
    assert seen == {"ids": [[10, 2]], "reasons": ["eos"]}


def test_functions_are_given_the_prompts_before_they_were_cut_if_they_declare_them(tmp_path: Path) -> None:
    def reward(whole_prompts: Any, prompts: Any, completions: Any, **columns: Any) -> list[float]:
        assert (prompts, whole_prompts) == (["very good"[-4:]], ["very good"])
        return [1.0]

    env = open_env(tmp_path, byte_level(), "very good", max_prompt_tokens=4, reward_fn=reward)
    assert finish(env, [2])["reward_components"] == {"reward": 1.0}


def test_a_cut_prompt_keeps_a_bos_that_only_its_template_writes() -> None:
    tokenizer = byte_level()  # as OLMo 2's: the template writes BOS and the tokenizer adds none
    (ids,) = encode_texts(tokenizer, ["<s>" + "the film was good and " * 9])
    cut = keep_end(tokenizer, ids, 8)
    assert cut == [1, *ids[-7:]]
    assert keep_end(tokenizer, ids[1:], 8) == ids[-8:], "a text without BOS gets none"


def test_the_last_of_several_special_tokens_is_not_written_twice() -> None:
    tokenizer = byte_level()  # as GLM's, which begins texts with [gMASK]<sop>
    pair = processors.TemplateProcessing(single="<|im_start|> <s> $A", special_tokens=[("<|im_start|>", 3), ("<s>", 1)])
    tokenizer._tokenizer.post_processor = pair
    assert {tuple(ids) for ids in encode_texts(tokenizer, ["the", "<s>the", "<|im_start|><s>the"])} == {
        tuple(tokenizer("the")["input_ids"])
    }
