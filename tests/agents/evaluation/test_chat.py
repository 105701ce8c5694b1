"""Conversations with a model, turn by turn."""

from __future__ import annotations

from typing import Any

import pytest

from agents.evaluation.chat import Chat
from rlhf_envs.models import load_causal_lm, load_tokenizer

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }} {% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("chat")
    load_causal_lm("tiny").save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return str(folder)


def asked(chat: Chat, monkeypatch: pytest.MonkeyPatch, answers: list[str]) -> list[Any]:
    """Let the model answer as told, and return the list that the prompts it is given are added to."""
    prompts: list[Any] = []

    def answer(prompt: Any) -> str:
        prompts.append(prompt)
        return answers[len(prompts) - 1]

    monkeypatch.setattr(chat, "_complete", answer)
    return prompts


def test_a_chat_template_gets_all_turns(chat_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat(chat_model, system="be kind")
    prompts = asked(chat, monkeypatch, [" Hello. ", "Fine."])
    assert chat.say("hi") == "Hello."
    chat.say("how are you")
    assert [(m["role"], m["content"]) for m in prompts[1]] == [
        ("system", "be kind"),
        ("user", "hi"),
        ("assistant", "Hello."),
        ("user", "how are you"),
    ]
    chat.reset()
    assert chat.messages == [{"role": "system", "content": "be kind"}]


def test_role_lines_end_where_the_model_begins_the_users_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat("tiny", style="roles")
    prompts = asked(chat, monkeypatch, [" Blue\n\nUser: And", " Red"])
    assert chat.say("a colour?") == "Blue"
    chat.say("another?")
    assert prompts[1] == "User: a colour?\n\nAssistant: Blue\n\nUser: another?\n\nAssistant:"


def test_without_a_template_the_model_goes_on_with_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat("tiny")
    prompts = asked(chat, monkeypatch, [" good,", " bad"])
    assert chat.style == "plain"
    assert chat.say("the film was") == " good,"
    chat.say("never")
    assert prompts == ["the film was", "the film was good, never"]


def test_the_answer_is_the_models_and_the_model_is_loaded_once(chat_model: str) -> None:
    chat = Chat(chat_model, max_new_tokens=6, deterministic=True)
    answer = chat.say("hello")
    policy = chat.source.policy
    tokenizer = load_tokenizer(chat_model)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    expected = load_causal_lm(chat_model).generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
    assert answer == tokenizer.decode(expected, skip_special_tokens=True).strip()
    chat.say("and now something longer than the first turn was")
    assert chat.source.policy is policy


def test_the_seed_decides_and_each_turn_has_its_own() -> None:
    first, again = (Chat("tiny", seed=3, max_new_tokens=8) for _ in range(2))
    said = [first.say("the film"), first.say("the film")]
    assert said == [again.say("the film"), again.say("the film")]
    again.reset()
    assert again.say("the film") != said[0]


def test_a_style_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="tiny has no chat template"):
        Chat("tiny", style="template")
    with pytest.raises(ValueError, match="a system text needs messages"):
        Chat("tiny", system="be kind")
