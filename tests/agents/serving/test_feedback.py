"""What users say of served completions, and a sample of them for review, reach the feedback store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="the gateway needs the extra serve")
pytest.importorskip("sqlalchemy", reason="the store needs the extra web")

from agents.serving.keys import KeyFile
from agents.serving.requests import CompletionRequest
from agents.serving.served import Completion, Desk, Recent, annotator_of, completion_of
from benchmarks.fake_engine import FakeEngine
from rlhf_envs.feedback import FeedbackStore, StoreError
from rlhf_envs.feedback.store.forgetting import forget_person
from rlhf_envs.feedback.store.schema import metadata

from .running import Served, serve, wait_until


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return a gateway that keeps feedback, and reviews a completion whenever the test wants it to."""
    folder = tmp_path_factory.mktemp("feedback")
    with FeedbackStore(folder / "feedback.db") as store:
        desk = Desk(store, "mine@123", mask=lambda text: text.replace("555-0100", "<phone>"))
        with serve(folder, FakeEngine(), desk=desk) as served:
            yield served


def store_of(served: Served) -> FeedbackStore:
    store = served.gateway.desk.store
    assert isinstance(store, FeedbackStore)
    return store


def say(served: Served, completion: str, **fields: Any) -> Any:
    return served.client.post("/v1/feedback", json={"id": completion, "consent": True, **fields})


def test_thumbs_and_a_correction_are_stored_with_the_policy(served: Served) -> None:
    made, left = served.complete("my number is 555-0100").json()["id"], store_of(served).labels_left()
    answer = say(served, made, thumbs="down", correction="call 555-0100 now", comment="wrong", user="mr-x@example.org")
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert content["stored"] == ["thumbs", "correction"] and content["policy"] == "mine@123"
    thumbs, correction = store_of(served).items()[-2:]
    assert thumbs.kind == "thumbs" and thumbs.policy == "mine@123" and thumbs.source == "rlhf serve"
    assert thumbs.prompt == "my number is <phone>" and thumbs.completions == ("<phone> is number my ",)
    (key,) = [key for key in served.keys.list() if key.name == "ann"]
    assert thumbs.meta == {"completion": made, "consent": "feedback", "key": key.id}
    given = store_of(served).judgements(item_ids=[thumbs.id, correction.id])
    assert [entry.value for entry in given] == [{"up": False}, {"text": "call <phone> now"}]
    assert {entry.annotator for entry in given} == {content["annotator"]} and given[0].comment == "wrong"
    assert "mr-x" not in content["annotator"] and content["annotator"].startswith("ann/")
    assert store_of(served).labels_left() == left, "nobody is asked about them again"


def test_a_chat_that_was_streamed_is_judged_by_its_id(served: Served) -> None:
    stream = served.chat("a b", stream=True).text
    made = stream.split('"id":"')[1].split('"')[0]
    assert say(served, made, thumbs="up").status_code == 200
    item = store_of(served).items()[-1]
    assert item.prompt == "a b" and item.completions == ("b a ",)
    assert item.meta["messages"] == [{"role": "user", "content": "a b"}]


def test_several_users_share_an_item_and_a_retry_changes_nothing(served: Served) -> None:
    made = served.complete("x").json()["id"]
    for user in ("u1", "u2", "u1"):
        assert say(served, made, thumbs="up", user=user).status_code == 200
    item = store_of(served).items()[-1]
    assert len(store_of(served).judgements(item_ids=[item.id])) == 2
    other = say(served, made, thumbs="down", user="u1")
    assert other.status_code == 409 and other.json()["error"]["code"] == "feedback_given"


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"consent": False, "thumbs": "up"}, 400, "invalid_request"),
        ({}, 400, "invalid_request"),
        ({"thumbs": "sideways"}, 400, "invalid_request"),
        ({"correction": "  "}, 400, "invalid_request"),
        ({"correction": "\ud800"}, 400, "invalid_request"),
        ({"thumbs": "up", "choice": 1}, 404, "completion_not_found"),
        ({"thumbs": "up", "id": "cmpl-0"}, 404, "completion_not_found"),
    ],
)
def test_what_is_wrong_with_feedback_is_said(served: Served, fields: dict[str, Any], status: int, code: str) -> None:
    import json

    made, before = served.complete("x").json()["id"], len(store_of(served).items())
    body = json.dumps({"id": made, "consent": True, **fields})
    answer = served.client.post("/v1/feedback", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert len(store_of(served).items()) == before


def test_feedback_that_says_nothing_of_consent_hears_what_to_give(served: Served) -> None:
    made = served.complete("x").json()["id"]
    answer = served.client.post("/v1/feedback", json={"id": made, "thumbs": "up"})
    assert answer.status_code == 400
    assert "give true if the user agrees" in answer.json()["error"]["message"]


def test_a_key_with_an_admins_name_is_refused(served: Served) -> None:
    store_of(served).add_annotator("boss", "admin")
    _, secret = served.keys.add("boss")
    headers = {"Authorization": f"Bearer {secret}"}
    made = served.client.post("/v1/completions", json={"model": "mine", "prompt": "x"}, headers=headers).json()["id"]
    body = {"id": made, "consent": True, "thumbs": "up"}
    answer = served.client.post("/v1/feedback", json=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "annotator_taken")


def test_nobody_judges_another_keys_completion(served: Served) -> None:
    made = served.complete("x").json()["id"]
    _, other = served.keys.add("eve")
    _, asking = served.keys.add("asker", ["completions"])
    body = {"id": made, "consent": True, "thumbs": "up"}
    for secret, status in ((other, 404), (asking, 403)):
        answer = served.client.post("/v1/feedback", json=body, headers={"Authorization": f"Bearer {secret}"})
        assert answer.status_code == status


@pytest.mark.parametrize("pseudonymise", [False, True])
@pytest.mark.parametrize("user", [None, "someone"])
def test_a_forgotten_client_is_named_nowhere(tmp_path: Path, user: str | None, pseudonymise: bool) -> None:
    key, _ = KeyFile(tmp_path / "keys.json").add("zebulon")
    who = annotator_of(key, user)
    with FeedbackStore(tmp_path / "feedback.db") as store:
        completion = Completion("c", "a", None, ["x"], key, "key")
        Desk(store, "p").take(completion, 0, {"thumbs": {"up": True}}, who, "")
        forget_person(store, who, pseudonymise=pseudonymise)
        with store._database.read() as connection:
            rows = [tuple(row) for table in metadata.sorted_tables for row in connection.execute(table.select())]
        assert store.items() and "zebulon" not in str(rows)


def test_a_store_that_fails_is_503(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise StoreError("the disk is full of secrets")

    made = served.complete("x").json()["id"]
    monkeypatch.setattr(store_of(served), "add_annotator", fail)
    answer = say(served, made, thumbs="up")
    assert answer.status_code == 503 and answer.headers["retry-after"] and "secrets" not in answer.text


def test_a_sample_is_reviewed_if_its_users_agree(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.gateway.desk, "share", 1.0)
    before = len(store_of(served).items())
    served.complete("a b", store=False)  # they do not agree
    served.complete("a b", store=True, temperature=0, stream=True, seed=3)
    wait_until(lambda: len(store_of(served).items()) == before + 1)
    assert not {"seed", "stream", "temperature"} & served.fake.last.keys(), "another one is drawn to compare with"
    served.chat("b c")  # the key says that its users agree
    wait_until(lambda: len(store_of(served).items()) == before + 2)
    first, second = store_of(served).items()[-2:]
    assert first.meta["consent"] == "request" and second.meta["consent"] == "key"
    assert first.kind == "thumbs", "both completions are the same: one is shown"
    assert store_of(served).labels_left() == 2
    wait_until(lambda: served.metric("rlhf_review_items_total") == 2)  # counted once the item is stored


def test_two_different_completions_are_compared(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        desk = Desk(store, "p")
        completion = Completion("c", "a", None, ["x"], None, "request")
        desk.review(completion, "y")
        (item,) = store.items()
        assert item.kind == "pairwise" and item.completions == ("x", "y") and item.policy == "p"


def test_the_share_is_kept_to() -> None:
    desk = Desk(None, "p", 0.05, seed=0)  # type: ignore[arg-type]
    agreed, silent = (Completion("c", "a", None, ["x"], None, who) for who in ("key", None))
    assert 400 < sum(desk.is_sampled(agreed) for _ in range(10_000)) < 600
    assert not any(desk.is_sampled(silent) for _ in range(1000))
    with pytest.raises(ValueError, match="share must be from 0 to 1"):
        Desk(None, "p", 1.5)  # type: ignore[arg-type]


def test_few_completions_are_remembered_and_not_for_long() -> None:
    recent = Recent(most=3, most_bytes=10_000, seconds=100)

    def made(id: str, text: str = "x") -> Completion:
        return Completion(id, "p", None, [text], None, None)

    for id in "abcd":
        recent.add(made(id))
    assert recent.get("a", None) is None and recent.get("b", None) is not None
    recent.add(made("e", "x" * 2000))
    assert recent.get("b", None) is None and recent.get("e", None) is not None
    old = made("f")
    old.created -= 200
    recent.add(old)
    assert recent.get("f", None) is None


def test_prompts_that_are_no_text_are_not_kept() -> None:
    assert completion_of(CompletionRequest(model="m", prompt=[1, 2]), "id", ["x"], None) is None
    assert completion_of(CompletionRequest(model="m", prompt="p", suffix="s"), "id", ["x"], None) is None
    echoed = completion_of(CompletionRequest(model="m", prompt="p q", echo=True), "id", ["p q r"], None)
    assert echoed is not None and (echoed.prompt, echoed.texts) == ("p q", [" r"])
    assert annotator_of(None, None) == "anonymous" and annotator_of(None, "a") != annotator_of(None, "b")
