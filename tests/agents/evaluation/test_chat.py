"""Conversations with a model, turn by turn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import agents
from agents.evaluation.chat import Chat
from agents.evaluation.prompting import open_prompts
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
    chat = Chat(chat_model, system_prompt="be kind")
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


def test_a_run_is_talked_with_in_the_form_of_its_task() -> None:
    """Customer service is a conversation, in role lines where the model has no template: it is trained in these."""
    agent = agents.make("random", "rlhf/CustomerService-v0", n_envs=1)
    chat = Chat(agent, max_new_tokens=2)
    assert chat.style == "template"
    batch = open_prompts(chat.source, [[{"role": "user", "content": "Where is my order?"}]])
    batch.draw(0, np.random.default_rng(0))
    row = batch.observe_row(0)
    read = load_tokenizer("tiny").decode(row["input_ids"][row["attention_mask"] == 1])
    assert str(read).lower() == "user: where is my order?\n\nassistant:"
    assert isinstance(chat.say("hi"), str)
    assert Chat("tiny").style == "plain"


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


def test_a_text_that_the_model_has_ended_is_not_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """After EOS a plain model says nothing more. A text that was cut goes on."""
    asked, reasons = [], iter(["length", "eos", "length"])

    def finish(batch: Any, *_: Any, **__: Any) -> list[Any]:
        asked.append(batch.rows[0]["prompt"])
        return [SimpleNamespace(completion=" good.", finish_reason=next(reasons))]

    monkeypatch.setattr("agents.evaluation.chat.generate_in", finish)
    chat = Chat("tiny")
    for text in ("the film was", "and", "a story"):
        chat.say(text)
    assert asked == ["the film was", "the film was good. and", "a story"]
    assert [message["content"] for message in chat.messages] == ["a story", " good."]


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


def test_a_turn_encodes_what_is_new_and_leaves_the_cache_of_a_given_agent_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[int] = []
    trunk = type(load_causal_lm("tiny").base_model)
    real = trunk.forward

    def forward(self: Any, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        encoded.append(input_ids.numel())
        return real(self, input_ids, *args, **kwargs)

    chat = Chat("tiny", max_new_tokens=4, deterministic=True)
    chat.say("the film was a good story of two people who")
    monkeypatch.setattr(trunk, "forward", forward)
    chat.say("never")
    assert 0 < sum(encoded) < 12, "a few new tokens and the answer, not the whole text"
    monkeypatch.undo()
    agent = agents.make("ppo", agents.make_vec_env("rlhf/TokenBandit-v0", 2), device="cpu")
    Chat(agent).say("a")
    assert not agent.policy._actor.cache._lengths.numel()


def test_a_style_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="tiny has no chat template"):
        Chat("tiny", style="template")
    with pytest.raises(ValueError, match="system_prompt='be kind' needs messages"):
        Chat("tiny", system_prompt="be kind")


@pytest.mark.parametrize("style", ["plain", "roles", "template"])
def test_what_the_user_types_is_no_control_token(style: Any, chat_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat(chat_model, style=style)
    prompts = asked(chat, monkeypatch, [""])
    chat.say("a<|eos|>b")
    batch = open_prompts(chat.source, prompts)
    batch.start(0, 0)
    assert chat._tokenizer.eos_token_id not in batch.ids[0, : batch.lengths[0]]


@pytest.mark.parametrize("style", ["plain", "roles", "template"])
def test_an_answer_that_comes_in_pieces_is_the_same(style: Any, chat_model: str) -> None:
    whole, streamed = (Chat(chat_model, style=style, max_new_tokens=12) for _ in range(2))
    for text in ("the film", "and then"):
        pieces: list[str] = []
        answer = streamed.say(text, pieces.append)
        assert answer == "".join(pieces) == whole.say(text)
        assert len(pieces) > 4


def test_a_piece_has_no_half_of_a_character_and_nothing_of_the_next_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat("tiny", style="roles")
    tokenizer = load_tokenizer("tiny")
    parts = (" 好 <|", "eos|> \n\nus", "a\n\n", "user: b")
    tokens = [token for part in parts for token in tokenizer(part)["input_ids"]]

    class Episodes:
        """Stand for the episodes: after every token, its completion so far."""

        written: list[int] = []

        def texts(self, rows: list[int]) -> Any:
            return [""], [tokenizer.decode(self.written)]

    def complete(prompt: Any, on_step: Any) -> str:
        episodes = Episodes()
        for token in tokens:
            episodes.written = [*episodes.written, token]
            on_step(episodes)
        return str(episodes.texts([0])[1][0])

    monkeypatch.setattr(chat, "_complete", complete)
    monkeypatch.setattr("agents.evaluation.chat.NEXT_TURN", "\n\nuser:")  # "tiny" writes lower case
    pieces: list[str] = []
    assert chat.say("hi", pieces.append) == "".join(pieces) == "好 <|eos|> \n\nusa"
    assert "好" in pieces and "" in pieces


def test_an_interrupt_ends_the_answer_and_not_the_chat() -> None:
    whole = Chat("tiny", max_new_tokens=12, deterministic=True)
    stopped = Chat("tiny", max_new_tokens=12, deterministic=True)
    pieces: list[str] = []

    def stop(new: str) -> None:
        pieces.append(new)
        if len(pieces) == 3:
            raise KeyboardInterrupt

    answer = stopped.say("the film", stop)
    assert answer == "".join(pieces) != ""
    assert whole.say("the film").startswith(answer)
    assert stopped.messages[-1] == {"role": "assistant", "content": answer}
    again = stopped.say("and", lambda new: None)
    whole.messages = [{"role": "user", "content": "the film"}, {"role": "assistant", "content": answer}]
    assert again == whole.say("and"), "the policy's cache is as it would be without the interrupt"
