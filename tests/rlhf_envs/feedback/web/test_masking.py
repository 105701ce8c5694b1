"""The pages say that private data is masked, where it is; what is sent is masked."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("phonenumbers")
pytest.importorskip("stdnum")

from fastapi.testclient import TestClient

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback import masking as masking_module
from rlhf_envs.feedback.web import create_app
from rlhf_envs.privacy import PrivacyError


def test_people_are_told_and_what_they_send_is_masked(sign_in: Callable[..., TestClient], store: FeedbackStore) -> None:
    store.add_items([NewItem("correction", "p", ("c",))])
    client = sign_in("ann")
    for address in ("/annotate", "/me"):
        store.update_settings(mask_private=False)
        assert ">Private data in what you write" not in client.get(address).text
        store.update_settings(mask_private=True)
        assert ">Private data in what you write" in client.get(address).text
    task = client.post("/api/claim").json()["task"]
    said = {"value": {"text": "mail ann@x.org"}, "key": "answer-1", "seconds": 1, "comment": "or 13812345678"}
    assert client.post(f"/api/tasks/{task['id']}/judgement", json=said).status_code == 200
    (judgement,) = store.judgements()
    assert (judgement.value, judgement.comment) == ({"text": "mail [EMAIL]"}, "or [PHONE]")


def test_an_app_without_the_extra_is_refused(store: FeedbackStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise PrivacyError("masking needs stdnum: pip install 'rlhf-envs[privacy]'")

    store.update_settings(mask_private=True)
    monkeypatch.setattr(masking_module, "_masker", missing)
    with pytest.raises(ValueError, match="mask_private: masking needs stdnum"):
        create_app(store, secret=b"x" * 32)
