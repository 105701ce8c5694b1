"""The admin's page of settings as TOML: edit, upload, download; what is wrong is shown, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from rlhf_envs.feedback import FeedbackStore

SignIn = Callable[..., TestClient]
QUESTION = '[[questions]]\nname = "helpful"\ntext = "Helpful?"\ntype = "rating"\n'


@pytest.fixture
def admin(sign_in: SignIn) -> TestClient:
    return sign_in("root", "admin")


def send(client: TestClient, text: str = "", **files: tuple[str, bytes]) -> tuple[int, str]:
    form = {"csrf": client.headers["X-CSRF-Token"], "text": text}
    answer = client.post("/admin/study", data=form, files=files or None)
    return answer.status_code, answer.text


def test_what_the_page_shows_can_be_edited_and_saved(admin: TestClient, store: FeedbackStore) -> None:
    assert "lease_seconds = 600.0" in admin.get("/admin/study").text
    status, page = send(admin, 'guidelines = "Be kind.\\r\\nRead."\r\n' + QUESTION)
    assert status == 200 and "question &#39;helpful&#39;: new" in page
    assert store.settings.questions[0].text == "Helpful?"
    assert store.settings.guidelines == "Be kind.\r\nRead."
    text = admin.get("/admin/study/study.toml").text
    assert send(admin, text)[1].count("Nothing has changed.") == 1


def test_a_file_can_be_uploaded_instead(admin: TestClient, store: FeedbackStore) -> None:
    status, page = send(admin, "paused = true", file=("study.toml", b'guidelines = "file"'))
    assert status == 200 and "guidelines" in page
    assert (store.settings.guidelines, store.settings.paused) == ("file", False)
    status, page = send(admin, "", file=("study.toml", b"\xff"))
    assert status == 422 and "study.toml is no UTF-8 text" in page


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pausd = true", "unknown setting &#39;pausd&#39;; did you mean &#39;paused&#39;?"),
        ("paused =", "this is no TOML"),
        (QUESTION + "scale = [5, 1]", "question &#39;helpful&#39;: scale must be"),
        ('guidelines = {file = "/etc/passwd"}', "cannot be read here"),
    ],
)
def test_what_is_wrong_is_shown_with_the_text_as_it_was(
    admin: TestClient, store: FeedbackStore, text: str, words: str
) -> None:
    before = store.settings
    status, page = send(admin, f"lease_seconds = 99.0\n{text}")
    assert status == 422
    assert "Nothing was changed." in page and words in page
    assert "lease_seconds = 99.0" in page
    assert store.settings == before


def test_only_admins_may_read_or_change(sign_in: SignIn, store: FeedbackStore) -> None:
    ada = sign_in("ada")
    assert ada.get("/admin/study").status_code == 403
    assert ada.get("/admin/study/study.toml").status_code == 403
    assert send(ada, 'guidelines = "mine"')[0] == 403
    root = sign_in("root", "admin")
    assert root.post("/admin/study", data={"csrf": "wrong", "text": ""}).status_code == 403
    assert store.settings.guidelines == ""
