"""`rlhf serve --mask-private`: nothing private leaves the gateway or is stored, over the borders of chunks either."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="the gateway needs the extra serve")
pytest.importorskip("phonenumbers", reason="masks need the extra privacy")
pytest.importorskip("stdnum", reason="masks need the extra privacy")
pytest.importorskip("sqlalchemy", reason="the store needs the extra web")

from agents.serving.errors import Refusal
from agents.serving.masking import MaskedChoices
from agents.serving.served import Completion, Desk
from benchmarks.fake_engine import FakeEngine
from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.privacy import Masker

from .running import Served, serve

TEXT = "Write to anna@example.com or call +1 (415) 555-0132 today, please."
MASKED = "Write to [EMAIL] or call [PHONE] today, please."
PRIVATE = ("anna", "example", "(415)", "555-0132")  # nothing that an id or a time could hold


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return a gateway that masks what it gives out and what it stores."""
    folder, masker = tmp_path_factory.mktemp("masking"), Masker()
    with FeedbackStore(folder / "feedback.db") as store:
        desk = Desk(store, "mine@123", mask=masker.mask)
        with serve(folder, FakeEngine(), desk=desk, masker=masker) as served:
            yield served


@pytest.fixture
def writes(served: Served) -> Iterator[Any]:
    """Return what lets the engine write a text in pieces of so many characters."""

    def write(size: int, text: str = TEXT) -> None:
        served.fake.pieces = [text[place : place + size] for place in range(0, len(text), size)]

    yield write
    served.fake.pieces = None


def streamed(response: Any) -> tuple[list[dict[str, Any]], str]:
    """Return the choices of a stream's events, and their text."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]", response.text
    choices = [choice for line in lines[:-1] for choice in json.loads(line)["choices"]]
    return choices, "".join(c["text"] if "text" in c else c["delta"].get("content") or "" for c in choices)


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_stream_shows_what_the_masked_whole_would_be(served: Served, writes: Any, size: int) -> None:
    writes(size)
    for ask in (served.complete, served.chat):
        response = ask(stream=True)
        choices, text = streamed(response)
        assert text == MASKED and choices[-1]["finish_reason"] == "stop"
        assert not any(part in response.text for part in PRIVATE)


def test_a_stream_is_not_held_back_to_its_end(served: Served, writes: Any) -> None:
    writes(4, "It was a quiet day and nothing happened at all.")
    choices, _ = streamed(served.complete(stream=True))
    assert sum(bool(choice["text"]) for choice in choices[:-1]) >= 5


def test_whole_answers_are_masked_choice_by_choice(served: Served, writes: Any) -> None:
    writes(5)
    response = served.complete(n=2)
    assert [choice["text"] for choice in response.json()["choices"]] == [MASKED] * 2
    assert response.json()["usage"]["completion_tokens"] == 14, "the engine's count stays"
    message = served.chat().json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": MASKED}
    writes(1000, TEXT * 40)
    assert served.complete().json()["choices"][0]["text"] == MASKED * 40


@pytest.mark.parametrize("stream", [False, True])
def test_what_holds_the_text_again_is_refused(served: Served, stream: bool) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    for answer, param in (
        (served.complete(logprobs=0, stream=stream), "logprobs"),
        (served.chat(logprobs=True, stream=stream), "logprobs"),
        (served.chat(top_logprobs=2, stream=stream), "top_logprobs"),
        (served.chat(tools=[tool], stream=stream), "tools"),
    ):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", param)
        assert "--mask-private" in error["message"]
    assert served.chat(logprobs=False).status_code == 200


def test_an_engines_words_on_a_wrong_request_are_masked(served: Served) -> None:
    answer = served.complete(f"!detail {TEXT}")
    assert answer.status_code == 400 and answer.json()["error"]["message"].endswith(MASKED)


def test_nothing_else_of_the_engines_is_handed_on() -> None:
    masks = MaskedChoices(Masker(), is_chat=True)
    delta = {"role": "assistant", "content": "x", "reasoning_content": TEXT}
    choice = {
        "delta": delta,
        "finish_reason": "stop",
        "token_ids": [1],
        "stop_reason": TEXT,
        "logprobs": {"content": []},
    }
    bare = {"index": 0, "finish_reason": "stop", "delta": {"role": "assistant", "content": "x"}}
    assert masks.part(0, choice, "x") == bare
    content = {"object": "o", "prompt_token_ids": [1], "choices": [choice], "kv_transfer_params": TEXT}
    assert masks.envelope(content, []) == {"object": "o", "choices": []}


def test_choices_that_come_mixed_are_masked_each_on_its_own() -> None:
    masks, texts = MaskedChoices(Masker(), is_chat=False), ["", ""]
    for place, piece in enumerate(TEXT):
        for index in (0, 1):
            end = "stop" if place == len(TEXT) - 1 and index == 0 else None
            texts[index] += masks.part(index, {"finish_reason": end}, piece)["text"]
    (rest,) = masks.rest()  # nobody said that the second one ended
    assert [texts[0], texts[1] + rest["text"]] == [MASKED] * 2 and rest["index"] == 1
    with pytest.raises(Refusal, match="after its end"):
        masks.part(0, {}, "0132")


def test_a_stream_that_names_no_end_still_shows_all(served: Served, writes: Any) -> None:
    writes(9, TEXT + " anna@example.com")
    served.fake.names_ends = False
    try:
        choices, text = streamed(served.complete(stream=True))
    finally:
        served.fake.names_ends = True
    assert text == MASKED + " [EMAIL]" and choices[-1]["index"] == 0


def test_what_goes_into_the_store_is_masked(served: Served, writes: Any) -> None:
    writes(6)
    made = json.loads(served.chat(TEXT, stream=True).text.split("\n\n")[0].removeprefix("data: "))["id"]
    said = {"id": made, "consent": True, "thumbs": "down", "correction": f"Better: {TEXT}", "comment": TEXT}
    for _ in range(2):  # a retry is none too many
        assert served.client.post("/v1/feedback", json=said).status_code == 200
    store = served.gateway.desk.store
    items = store.items()
    assert {item.prompt for item in items} == {MASKED} and {item.completions for item in items} == {(MASKED,)}
    given = store.judgements(item_ids=[item.id for item in items])
    assert {"text": f"Better: {MASKED}"} in [entry.value for entry in given] and given[0].comment == MASKED
    kept = str([(item.prompt, item.completions, item.meta) for item in items]) + str(given)
    assert not any(part in kept for part in PRIVATE)


def test_a_store_that_masks_masks_feedback_too(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        store.update_settings(mask_private=True)
        desk = Desk(store, "mine@123")
        completion = Completion("c", TEXT, None, [TEXT], None, "request")
        for _ in range(2):
            desk.take(completion, 0, {"correction": {"text": f"Better: {TEXT}"}}, "ann", TEXT)
        (item,) = store.items()
        (given,) = store.judgements(item_ids=[item.id])
        assert item.completions == (MASKED,)
        assert given.value == {"text": f"Better: {MASKED}"} and given.comment == MASKED
        desk.review(completion, TEXT.replace("anna", "bert"))
        assert store.items()[-1].kind == "thumbs", "masked, both are the same"
