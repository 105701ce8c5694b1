"""`rlhf sft`: what is learned, what is cut, and that packed examples do not see each other."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.core.examples import IGNORED, Example, encode_rows, number_rows
from agents.core.packing import fill_rows
from agents.training import sft
from agents.training.packing import PackedExamples
from agents.training.sft import fine_tune
from rlhf_envs.chat_format import ChatFormat
from rlhf_envs.models import load_causal_lm, load_tokenizer
from rlhf_envs.models.adapters import adapter_base
from rlhf_envs.tasks.spam_filter import SpamFilter
from rlhf_envs.tokens import end_ids
from tests.rlhf_envs.chat_families import family_tokenizer

TINY = load_tokenizer("tiny")
EOS = TINY.eos_token_id
ANSWER = {"role": "assistant", "content": "hello"}
CHATML = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|eos|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def learned(example: Example, tokenizer: Any = TINY) -> str:
    return str(tokenizer.decode([label for label in example.labels if label != IGNORED]))


def encoded(rows: list[dict[str, Any]], tokenizer: Any = TINY, max_length: int = 64, **kwargs: Any) -> Any:
    return encode_rows(tokenizer, rows, max_length, [tokenizer.eos_token_id], **kwargs)


@pytest.fixture
def chat_tokenizer() -> Any:
    tokenizer = AutoTokenizer.from_pretrained(Path(sft.__file__).parents[2] / "rlhf_envs" / "models" / "tiny")
    tokenizer.chat_template = CHATML
    return tokenizer


def test_the_prompt_gives_context_and_only_the_completion_and_its_end_are_learned() -> None:
    (example,), counts = encoded([{"prompt": "the film was", "completion": " good."}])
    assert TINY.decode(example.ids) == "the film was good.<|eos|>"
    assert learned(example) == " good.<|eos|>"
    assert not counts


def test_every_turn_of_the_assistant_is_learned_and_nothing_of_the_others(chat_tokenizer: Any) -> None:
    said = [("user", "hi"), ("assistant", "hello"), ("user", "and now?"), ("assistant", "bye")]
    messages = [{"role": role, "content": text} for role, text in said]
    (example,), _ = encoded([{"messages": messages}], chat_tokenizer)
    assert example.ids == chat_tokenizer.apply_chat_template(messages, return_dict=False)
    assert learned(example, chat_tokenizer) == "hello<|eos|>\nbye<|eos|>\n"


def test_a_conversation_has_the_bos_that_its_template_writes_or_none() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    for family in ("zephyr", "llama3"):  # both tokenizers put a BOS before a text; only Llama's template writes one
        tokenizer = family_tokenizer(family)
        for row in ({"messages": messages}, {"prompt": messages[:1], "completion": messages[1:]}):
            (example,), _ = encode_rows(tokenizer, [row], 128, end_ids(tokenizer, None))
            assert example.ids == tokenizer.apply_chat_template(messages, return_dict=False)


def test_without_a_chat_template_a_conversation_has_role_lines_and_each_answer_its_end() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    (one,), _ = encoded([{"messages": messages}])
    (two,), _ = encoded([{"prompt": messages[:1], "completion": messages[1:]}])
    assert one == two
    assert TINY.decode(one.ids) == "user: hi\n\nassistant: hello<|eos|>"  # "tiny" reads lower case
    assert learned(one) == " hello<|eos|>"


def test_a_turn_of_weight_0_is_context_without_loss(chat_tokenizer: Any) -> None:
    messages: list[dict[str, Any]] = []
    for asked, answered, weight in (("hi", "hello", 0), ("and now?", "bye", 1), ("no", "yes", 0)):
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered, "weight": weight}]
    (example,), _ = encoded([{"messages": messages, "system": "be brief"}], chat_tokenizer)
    system = {"role": "system", "content": "be brief"}
    assert example.ids == chat_tokenizer.apply_chat_template([system, *messages[:4]], return_dict=False)
    assert learned(example, chat_tokenizer) == "bye<|eos|>\n"
    (example,), _ = encoded([{"messages": messages}])  # in role lines, where the turn keeps its end
    assert TINY.decode(example.ids).startswith("user: hi\n\nassistant: hello<|eos|>")
    assert learned(example) == " bye<|eos|>"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p"}, r"row 2: no column 'completion'"),
        ({"prompt": "p", "completion": 3}, r"row 2: 'completion'"),
        ({"messages": [{"role": "user", "content": "hi"}]}, r"row 2: no message has the role 'assistant'"),
        ({"messages": [{**ANSWER, "weight": 0}]}, r"row 2: every message of the assistant has weight 0"),
        ({"messages": [{**ANSWER, "weight": 0.5}]}, r"row 2: 'messages' has a message of weight 0\.5: write 0"),
        ({"prompt": "p", "completion": [{**ANSWER, "weight": 0}]}, r"row 2: 'completion' has weight 0, so"),
    ],
)
def test_a_row_without_a_completion_is_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoded([{"prompt": "p", "completion": "c"}, row])


def test_a_long_prompt_loses_its_beginning_and_the_completion_stays_whole() -> None:
    (example,), counts = encoded([{"prompt": "so " * 50 + "the film was", "completion": " good."}], max_length=12)
    assert len(example.ids) == 12
    assert TINY.decode(example.ids).endswith("so the film was good.<|eos|>")
    assert learned(example) == " good.<|eos|>"
    assert counts == {"prompts that lost their beginning": 1}


def test_a_completion_that_does_not_fit_is_left_out_or_cut_without_an_end_and_counted() -> None:
    rows = [{"prompt": "the film was", "completion": " good" * 30}, {"prompt": "it was", "completion": " bad."}]
    examples, counts = encoded(rows, max_length=12)
    assert [learned(example) for example in examples] == [" bad.<|eos|>"]
    assert counts == {"rows left out, because the completion is too long": 1}
    examples, counts = encoded(rows, max_length=12, on_long_completion="cut")
    assert len(examples[0].ids) == 12
    assert set(learned(examples[0]).split()) == {"good"}
    assert counts == {"completions that lost their end, and with it their EOS": 1}
    with pytest.raises(ValueError, match=r"row 1: 31 tokens of completion and its prompt are more than max_length=12"):
        encoded(rows, max_length=12, on_long_completion="error")


def test_packed_examples_have_the_loss_that_they_have_alone() -> None:
    network = load_causal_lm("tiny")
    rows = [{"prompt": f"film {i} was", "completion": " good." * (1 + i % 5)} for i in range(12)]
    examples, _ = encoded(rows)
    packed = PackedExamples(examples, 64, TINY.pad_token_id)
    assert len(packed) < len(examples) / 2
    total, n = 0.0, 0
    for example in examples:
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([example.ids])).logits[0, :-1].log_softmax(-1)
        for at, label in enumerate(example.labels[1:]):
            if label != IGNORED:
                total, n = total - float(logits[at, label]), n + 1
    assert sft.mean_loss(network, packed, 2) == pytest.approx(total / n, abs=1e-5)
    alone = PackedExamples(examples, 64, TINY.pad_token_id, packed=False)
    assert len(alone) == len(examples)
    assert sft.mean_loss(network, alone, 4) == pytest.approx(total / n, abs=1e-5)


def test_packing_fills_rows_and_keeps_every_example_once() -> None:
    lengths = [5, 3, 9, 1, 7, 2, 4, 10, 6]
    rows = fill_rows(lengths, 10)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 10 for row in rows)
    assert len(rows) == 5  # 47 tokens


def test_a_model_whose_examples_see_each_other_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_causal_lm("tiny")
    assert sft._tells_examples_apart(network)
    monkeypatch.setattr(type(network), "forward", _without_positions(type(network).forward))
    assert not sft._tells_examples_apart(network)


def test_every_row_is_learned_and_no_split_is_missed_where_nothing_is_held_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"prompt": f"the film number {i} was", "completion": " green."} for i in range(30)]
    metrics = fine_tune(rows, tmp_path / "model", epochs=0.1, batch_size=2, max_length=32, hold_out=False)
    assert metrics["examples"] == 30 and "loss" not in metrics
    assert "split" not in caplog.text


def _without_positions(forward: Any) -> Any:
    def changed(self: Any, *args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs)

    return changed


def test_a_run_learns_the_training_split_alone_and_writes_what_it_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    rows = [{"prompt": f"the film number {i} was", "completion": " green and blue."} for i in range(60)]
    rows.append({"prompt": "it was", "completion": " long" * 300})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": r["prompt"], "completion": r["completion"]}) + "\n" for r in rows))
    options = dict(columns={"prompt": "question"}, max_length=64, batch_size=2)
    before = fine_tune(path, tmp_path / "zero", epochs=1, learning_rate=1e-9, **options)
    metrics = fine_tune(path, tmp_path / "model", epochs=4, learning_rate=1e-3, **options)
    assert metrics["loss"] < before["loss"] - 2
    assert metrics["examples"] < 60  # the others are for validation and tests
    assert metrics["rows left out, because the completion is too long"] == 1
    assert "1 of 61 rows: rows left out" in caplog.text
    saved = json.loads((tmp_path / "model" / "sft.json").read_text())
    assert saved["loss"] == metrics["loss"]
    assert saved["made"]["versions"].keys() >= {"torch", "transformers"}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.config.use_cache
    ids = torch.tensor([TINY("the film number 3 was")["input_ids"]])
    written = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=EOS, pad_token_id=0)
    assert TINY.decode(written[0]).endswith("green and blue.<|eos|>")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "answer": "c"}, "no column 'completion'"),
        ({"prompt": "p", "completion": " \ud83d"}, "has half a character"),
        ({"question": "p", "instruction": "q", "completion": "c"}, "the columns question, instruction could all be"),
    ],
)
def test_a_wrong_row_is_named_by_its_place_in_the_file(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    """Not by its place in the training split."""
    rows = [*({"prompt": f"film {i}", "completion": " good."} for i in range(30)), row | {"split": "train"}]
    rows = [{"split": "validation" if i % 2 else "train"} | row for i, row in enumerate(rows)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=rf"rows\.jsonl, row 31: .*{message}"):
        fine_tune(path, tmp_path / "out")


def test_few_prompts_are_all_learned_and_nothing_is_called_validation(tmp_path: Path) -> None:
    metrics = fine_tune([{"prompt": "a", "completion": " b"}] * 3, tmp_path / "model", max_length=16)
    assert metrics["examples"] == 3
    assert "loss" not in metrics


SAID = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def test_a_system_text_beside_messages_begins_them() -> None:
    assert encoded([{"system": "be brief", "messages": SAID}]) == encoded(
        [{"messages": [{"role": "system", "content": "be brief"}, *SAID]}]
    )


@pytest.mark.parametrize("family", ["llama3", "chatml"])
@pytest.mark.parametrize(
    ("row", "system"),
    [
        ({"prompt": "hi", "completion": "hello"}, "be brief"),
        ({"prompt": SAID[:1], "completion": SAID[1:]}, "be brief"),
        ({"prompt": "hi", "completion": SAID[1:]}, "be brief"),
        ({"messages": SAID}, "be brief"),
        ({"messages": SAID, "system": "be long"}, "be long"),
        ({"prompt": [{"role": "system", "content": "be long"}, SAID[0]], "completion": "hello"}, "be long"),
    ],
)
def test_what_is_learned_follows_the_prompt_that_an_environment_asks(
    family: str, row: dict[str, Any], system: str
) -> None:
    chat = ChatFormat(family_tokenizer(family), system_prompt="be brief", chat=True)
    (example,), _ = encode_rows(chat.tokenizer, [row], 256, end_ids(chat.tokenizer, None), chat=chat)
    whole = [{"role": "system", "content": system}, *SAID]
    assert example.ids == chat.tokenizer.apply_chat_template(whole, return_dict=False)
    asked = row["prompt"] if "prompt" in row else [{"role": "system", "content": system}, SAID[0]]
    (read,) = chat.read([{"prompt": asked}], "prompts")
    (prompt,) = chat.encode([chat.text(read["prompt"])], [read["prompt"]])
    assert prompt == example.ids[: example.labels.count(IGNORED)]


def test_variables_of_the_template_reach_it() -> None:
    variables = {"enable_thinking": False}
    template = (
        "{% for m in messages %}<{{ m.role }}>{% if enable_thinking is false %}!{% endif %}{{ m.content }}{% endfor %}"
    )
    template += "{% if add_generation_prompt %}<assistant>{% if enable_thinking is false %}!{% endif %}{% endif %}"
    chat = ChatFormat(TINY, chat_template=template, chat_template_kwargs=variables)
    (example,), _ = encode_rows(TINY, [{"messages": SAID}], 64, [EOS], chat=chat)
    assert TINY.decode(example.ids) == "<user>!hi<assistant>!hello<|eos|>"
    assert learned(example) == "hello<|eos|>"


def test_the_template_that_was_learned_is_saved_with_the_model(tmp_path: Path) -> None:
    rows = [{"prompt": "hi", "completion": "hello"}] * 3
    options: dict[str, Any] = dict(max_length=64, system_prompt="be brief", chat=True)
    fine_tune(rows, tmp_path / "own", chat_template=CHATML, **options)
    assert load_tokenizer(str(tmp_path / "own")).chat_template == CHATML
    saved = json.loads((tmp_path / "own" / "sft.json").read_text())
    assert {name: saved[name] for name in ("system_prompt", "chat", "chat_template")} == {
        "system_prompt": "be brief", "chat": True, "chat_template": CHATML
    }  # fmt: skip
    fine_tune(rows, tmp_path / "lines", chat_template="roles", **options)
    assert load_tokenizer(str(tmp_path / "lines")).chat_template is TINY.chat_template is None


def test_flags_for_conversations_that_do_not_fit_are_refused_with_the_fix(tmp_path: Path) -> None:
    rows = [{"prompt": "hi", "completion": " hello"}]
    with pytest.raises(ValueError, match=r"system_prompt='be brief' begins .* of the data are strings: give chat=True"):
        fine_tune(rows, tmp_path / "model", system_prompt="be brief")
    with pytest.raises(ValueError, match="chat=True needs a chat template, and the tokenizer has none"):
        fine_tune(rows, tmp_path / "model", chat=True)
    silent = "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}"
    with pytest.raises(ValueError, match="row 1: the chat template leaves out the system message 'be brief'"):
        fine_tune(rows, tmp_path / "model", system_prompt="be brief", chat=True, chat_template=silent)
    assert not (tmp_path / "model" / "tokenizer.json").exists()


def test_a_prompt_beside_messages_that_do_not_hold_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 1: the prompt 'be brief' is not in 'messages'"):
        fine_tune([{"prompt": "be brief", "messages": SAID}], tmp_path / "model")
    ((row,), _) = number_rows([{"prompt": "hi", "messages": SAID}], "data")
    assert row["prompt"] == "hi"


def test_empty_completions_are_counted_and_not_learned() -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "p", "completion": empty} for empty in ("", " \n", [{**SAID[1], "content": ""}])
    ]
    examples, counts = encoded([*rows, {"prompt": "p", "completion": "c"}])
    assert (len(examples), counts) == (1, {"rows left out, because the completion is empty": 3})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's
def test_adapters_are_learned_gone_on_with_trained_on_and_merged(tmp_path: Path) -> None:
    rows = [{"prompt": f"film {i} was", "completion": " green."} for i in range(12)]
    options: dict[str, Any] = dict(max_length=32, batch_size=2, learning_rate=1e-2, save_freq=2)
    whole = fine_tune(rows, tmp_path / "whole", epochs=2, lora=True, **options)
    assert whole["steps"] > 2
    assert sorted(file.name for file in (tmp_path / "whole").glob("*.safetensors")) == ["adapter_model.safetensors"]
    assert adapter_base(tmp_path / "whole") == "tiny"
    newest = max((tmp_path / "whole").glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    for file in ("adapter_model.safetensors", "sft.json"):
        (tmp_path / "whole" / file).rename(tmp_path / file)
    shutil.rmtree(newest)  # as if the run had been killed before
    with pytest.raises(ValueError, match=r"checkpoint-\d+ was saved with lora: resume with the same settings"):
        fine_tune(rows, tmp_path / "whole", epochs=2, resume=True, **options)
    fine_tune(rows, tmp_path / "whole", epochs=2, lora=True, resume=True, **options)
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, tmp_path / "whole"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    before = logits(load_causal_lm(str(tmp_path / "whole")))
    assert (before - logits(load_causal_lm("tiny"))).abs().max() > 0.1
    options |= dict(model=str(tmp_path / "whole"), learning_rate=1e-12)
    fine_tune(rows[:1], tmp_path / "on", lora=True, **options)
    assert adapter_base(tmp_path / "on") == "tiny"
    fine_tune(rows[:1], tmp_path / "merged", lora=True, merge=True, **options)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    for name in ("on", "merged"):
        torch.testing.assert_close(logits(load_causal_lm(str(tmp_path / name))), before, atol=1e-4, rtol=1e-4)


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return network(input_ids=torch.tensor([[5, 6, 7, 8]]), use_cache=False).logits


def test_merging_needs_adapters(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="merge without lora: there are no adapters to merge"):
        fine_tune([{"prompt": "a", "completion": " b"}], tmp_path / "model", merge=True)


def test_a_tasks_demonstrations_are_learned_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"prompt": "Spam or ham: hello", "completion": " ham"},
        {"prompt": "Spam or ham: win", "completion": " spam"},
    ]
    monkeypatch.setattr(SpamFilter, "demonstrations", lambda self, split: rows if split == "train" else [])
    metrics = fine_tune("rlhf/SpamFilter-v0", tmp_path / "start", epochs=1)
    assert metrics["examples"] == 2
    assert json.loads((tmp_path / "start" / "sft.json").read_text())["data"] == "rlhf/SpamFilter-v0"


def test_a_task_without_demonstrations_and_a_name_that_is_neither_file_nor_id_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="task 'token-bandit' has no column 'reference' to imitate"):
        fine_tune("rlhf/TokenBandit-v0", tmp_path / "start")
    with pytest.raises(FileNotFoundError, match="rlhf/Spam-v0"):
        fine_tune("rlhf/Spam-v0", tmp_path / "start")
