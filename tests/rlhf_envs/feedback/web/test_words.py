"""The words of the annotators' pages: complete in every language, chosen as the person wants, and none besides."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.requests import Request

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback import web as web_package
from rlhf_envs.feedback.settings import LANGUAGES
from rlhf_envs.feedback.web import words
from rlhf_envs.feedback.web.words import COOKIE, Words, check_texts, choose, load

WEB = Path(web_package.__file__).parent
KINDS = {"pairwise": 2, "ranking": 3, "rating": 1, "thumbs": 1, "correction": 1, "flags": 1}
ALL = {language: "a {n}" for language in LANGUAGES}


def sources() -> dict[str, str]:
    paths = [path for ending in ("py", "js", "html") for path in WEB.rglob(f"*.{ending}")]
    return {path.relative_to(WEB).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def keys() -> set[str]:
    return set(json.loads(load()["en"].json))


def test_every_key_that_is_asked_for_exists() -> None:
    for name, source in sources().items():
        pattern = r'(?<![\w.])(?:t|words|Refusal|WrongValue)\((?:\d+, )?[\'"]([\w ]+)[\'"]'
        assert set(re.findall(pattern, source)) <= keys(), name


def test_every_key_is_used() -> None:
    together = "\n".join(text for name, text in sources().items() if not name.startswith("templates/admin/"))
    quoted = set(re.findall(r"""['"]([\w ]+)['"]""", together))
    beginnings = tuple(re.findall(r"`(\w+_)\$\{", together))  # t(`question_${kind}`)
    ends = set(re.findall(r'~ "(_\w+)"', together))  # t(which ~ "_title")
    built = {word + end for word in quoted for end in ends}
    assert {key for key in keys() - quoted - built if not key.startswith(beginnings)} == set()
    assert set(beginnings) >= {"question_", "char_", "press_", "is_"}


def test_all_characters_that_have_a_name_are_named() -> None:
    listed = re.search(r"NAMED = new Set\(\[(.*?)\]\)", sources()["static/text.js"], re.DOTALL)
    assert listed is not None
    named = {f"char_{int(code, 16):04x}" for code in re.findall(r"0x(\w+)", listed[1])}
    assert named == {key for key in keys() if key.startswith("char_")} - {"char_other"}


def test_questions_of_all_kinds_are_there() -> None:
    assert {f"question_{kind}" for kind in KINDS} <= keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ja": None}, "in each of en, zh, de, es, fr, ja, got en, zh, de, es, fr"),
        ({"fr": "un"}, "'fr' must have the gaps"),
        ({"de": "{n} {m}"}, "'de' must have the gaps"),
        ({"de": "  "}, "'de' must have the gaps"),
        ({"de": {"one": "{n}", "few": "{n}"}}, "'one', 'few'"),
        ({"zh": {"one": "{n}", "other": "{n}"}}, "'zh' has the forms"),
        ({"de": {"one": "eins", "other": "{n}"}}, "'de' must have the gaps"),
    ],
)
def test_texts_that_are_not_equal_in_all_languages_are_refused(changes: dict[str, Any], message: str) -> None:
    texts = {language: text for language, text in {**ALL, **changes}.items() if text is not None}
    with pytest.raises(ValueError, match=message):
        check_texts(texts, "x.json: 'key'")


def test_key_in_two_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"key": ALL}), encoding="utf-8")
    monkeypatch.setattr(words, "_FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"b\.json: the key 'key' is in another file"):
        load.__wrapped__()


def test_counts_take_the_form_of_their_language() -> None:
    forms = {"text": {"one": "{n} thing", "other": "{n} things"}}
    assert [Words("en", forms)("text", n=n) for n in (0, 1, 2)] == ["0 things", "1 thing", "2 things"]
    assert [Words("fr", forms)("text", n=n) for n in (0, 1, 2)] == ["0 thing", "1 thing", "2 things"]


@pytest.mark.parametrize(
    ("cookie", "accepted", "default", "language"),
    [
        ("", "", "en", "en"),
        ("", "", "ja", "ja"),
        ("", "it-IT,it", "es", "es"),
        ("", "it, de-AT;q=0.7, fr;q=0.9", "en", "fr"),
        ("", "ZH-Hant-TW", "en", "zh"),
        ("", "de;q=0, fr;q=nonsense, es", "en", "es"),
        ("zh", "de", "en", "zh"),
        ("xx", "de", "en", "de"),
    ],
)
def test_language_is_the_persons_then_the_browsers_then_the_projects(
    cookie: str, accepted: str, default: str, language: str
) -> None:
    headers = [(b"cookie", f"{COOKIE}={cookie}".encode()), (b"accept-language", accepted.encode())]
    assert choose(Request({"type": "http", "headers": headers}), default).language == language


def test_refusals_come_in_the_language_of_the_request(visitor: Callable[[], TestClient], store: FeedbackStore) -> None:
    client, wrong = visitor(), {"name": "ada", "password": "wrong"}
    assert client.post("/api/login", json=wrong).json() == {"detail": "wrong name or password"}
    german = client.post("/api/login", json=wrong, headers={"Accept-Language": "de-CH"}).json()
    assert german == {"detail": "Name oder Passwort ist falsch"}
    store.update_settings(language="fr")
    assert client.post("/api/login", json=wrong).json() == {"detail": "nom ou mot de passe incorrect"}
    missing = client.get("/nowhere")
    assert '<html lang="fr">' in missing.text
    assert "Cette page n’existe pas." in missing.text


def test_error_pages_say_in_the_language_what_is_wrong(sign_in: Callable[..., TestClient]) -> None:
    client = sign_in("ada")
    client.headers["Accept-Language"] = "de"
    csrf = client.headers["X-CSRF-Token"]
    refused = client.post("/theme", data={"csrf": csrf, "theme": "pink"})
    assert refused.status_code == 422
    assert "<h1>Was gesendet wurde, ist nicht brauchbar.</h1>" in refused.text
    assert "fehlt oder ist ungültig: theme. Gehen Sie zurück" in refused.text
    assert "Input should be" not in refused.text
    asked = client.post("/language", data={"csrf": csrf, "language": "xx"})
    assert "fehlt oder ist ungültig: language (en, zh, de, es, fr, ja)" in asked.text
    out_of_date = client.post("/theme", data={"csrf": "x"})
    assert "<h1>Das ist nicht erlaubt.</h1>" in out_of_date.text
    missing = client.get("/nowhere").text
    assert missing.count("Diese Seite gibt es nicht.") == 2  # in the title and the heading, not below it again
    assert "<h1>Diese Seite gibt es nicht.</h1>" in missing
    programs = client.post("/api/claim?render=html").json()
    assert "Input should be" in programs["detail"]


def test_bad_passwords_are_explained_in_the_language(visitor: Callable[[], TestClient], store: FeedbackStore) -> None:
    client = visitor()
    client.headers["Accept-Language"] = "es"
    path = f"/invite/{store.invite()}"
    csrf = re.search(r'name="csrf" content="([^"]+)"', client.get(path).text)
    assert csrf is not None
    answer = client.post(path, data={"csrf": csrf[1], "name": "ada", "password": "password1"})
    assert answer.status_code == 422
    assert "es de las primeras que se adivinan" in answer.text


def test_chosen_language_stays_and_leads_back(visitor: Callable[[], TestClient]) -> None:
    client = visitor()
    page = client.get("/login?x=1", headers={"Accept-Language": "fr"}).text
    assert '<html lang="fr">' in page
    assert 'name="back" value="/login?x=1"' in page
    csrf = re.search(r'name="csrf" content="([^"]+)"', page)
    assert csrf is not None
    answer = client.post("/language", data={"csrf": csrf[1], "language": "ja", "back": "/login?x=1"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?x=1")
    assert '<html lang="ja">' in client.get("/login", headers={"Accept-Language": "fr"}).text


@pytest.mark.parametrize("back", ["//evil.example", "/\\evil.example", "https://evil.example", "", "/a\r\nb"])
def test_choosing_a_language_leads_nowhere_else(visitor: Callable[[], TestClient], back: str) -> None:
    client = visitor()
    csrf = re.search(r'name="csrf" content="([^"]+)"', client.get("/login").text)
    assert csrf is not None
    answer = client.post("/language", data={"csrf": csrf[1], "language": "ja", "back": back})
    assert answer.headers["location"] == "/"
    assert client.post("/language", data={"csrf": csrf[1], "language": "xx", "back": "/"}).status_code == 422
    assert client.post("/language", data={"language": "de", "back": "/"}).status_code == 403


def test_pages_of_admins_are_in_english(sign_in: Callable[..., TestClient]) -> None:
    admin = sign_in("root", "admin")
    admin.headers["Accept-Language"] = "de"
    assert '<html lang="en">' in admin.get("/admin").text
    assert '<html lang="de">' in admin.get("/annotate").text


# What a person can see or hear of a page, but not what the item, the person or the project is called.
SEEN = """() => {
  const found = [];
  const walk = document.createTreeWalker(document.documentElement, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
  const aside = "script, style, noscript, kbd, [lang]:not(html)";
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    if (node.nodeType === 3) {
      if (!node.parentElement.closest(aside)) found.push(node.data);
    } else {
      for (const name of ["aria-label", "title", "placeholder", "alt"]) found.push(node.getAttribute(name));
    }
  }
  return found.filter((text) => text?.trim());
}"""


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put every text of the table into brackets, so that what is said without it can be told."""

    def mark(text: Any) -> Any:
        return {form: mark(inside) for form, inside in text.items()} if isinstance(text, dict) else f"⟦{text}⟧"

    table = {key: mark(text) for key, text in json.loads(load()["en"].json).items()}
    table |= {key: text for key, text in json.loads(load()["en"].json).items() if key.startswith("press_")}
    monkeypatch.setattr(words, "load", lambda: {language: Words(language, table) for language in LANGUAGES})
    monkeypatch.setattr("rlhf_envs.feedback.web.pages.load", words.load)


def unmarked(page: Any, *names: str) -> set[str]:
    """Return what a page says that is not in the table of words, without numbers and the names given."""
    left = set()
    for text in page.evaluate(SEEN):
        rest = re.sub(r"⟦[^⟦⟧]*(⟦[^⟦⟧]*⟧[^⟦⟧]*)*⟧", "", text)
        for name in ("Feedback", *names):
            rest = rest.replace(name, "")
        if re.search(r"[^\W\d_]{2,}", rest):
            left.add(text.strip())
    return left


@pytest.mark.usefixtures("marked")
def test_everything_that_annotators_read_is_in_the_table(open_page: Callable[..., Any], store: FeedbackStore) -> None:
    texts = ("qqq", "\u200b", "")
    store.add_items([NewItem(kind, "qqq", texts[:n], priority=-i) for i, (kind, n) in enumerate(KINDS.items())])
    names = (*store.settings.harms, "ada", "qqq", "U+200B")
    page = open_page()
    for kind in KINDS:
        page.wait_for_selector(f"body[data-kind={kind}] #task[aria-busy=false]")
        assert unmarked(page, *names) == set()
        if kind == "correction":
            page.keyboard.press("Control+Enter")
            assert unmarked(page, *names) == set()
        page.keyboard.press("s")
    page.wait_for_selector("body[data-kind=none] #task[aria-busy=false]")
    assert unmarked(page, *names) == set()
    for key in ("u", "u"):
        page.keyboard.press(key)
        page.wait_for_timeout(300)
        assert unmarked(page, *names) == set()


@pytest.mark.usefixtures("marked")
def test_pages_around_the_work_say_nothing_else(
    open_page: Callable[..., Any], store: FeedbackStore, address: str
) -> None:
    question = {"text": "Qqq?", "options": ["Yyy", "Nnn"], "accept": ["Yyy"]}
    items = [NewItem("thumbs", "qqq", ("qqq",), gold={"up": True}, meta={"explanation": "qqq"}) for _ in range(2)]
    store.add_items(items)
    store.update_settings(
        consent={"text": "qqq"},
        guidelines="qqq",
        training={"n_items": 1, "tries": 2},
        panel={
            "person": "PID",
            "screening": [question],
            "completion_code": "qqq",
            "screen_out_url": "https://q.example",
        },
        break_minutes=1.0,
    )
    names = ("qqq", "Qqq?", "Yyy", "Nnn", "PID", "UTC")

    def check(page: Any) -> None:
        assert unmarked(page, *names) == set()

    page = open_page("/panel?PID=qqq", name="")
    yes = "input[value=Yyy]"
    for ready in ("[data-document=consent][aria-busy=false]", yes, "[data-document=guidelines][aria-busy=false]"):
        page.wait_for_selector(ready)
        check(page)
        if ready == yes:
            page.locator(yes).check()
        page.locator("form button.primary").click()
    for _ in range(2):
        page.wait_for_selector("body[data-kind=thumbs] #task[aria-busy=false]")
        page.evaluate("sessionStorage.setItem('rlhf-began', '1')")
        page.keyboard.press("2")
        page.wait_for_selector("#training-result")
        check(page)
        page.keyboard.press("Enter")
    page.wait_for_url("**/finished")
    check(page)
    page.goto(address + "/me")
    page.wait_for_selector("dl")
    check(page)
    page.locator(".danger button").click()
    check(page)
    page.locator("input[name=confirm]").check()
    page.locator(".danger button").click()
    page.wait_for_selector("body:not(:has(dl)) main")
    check(page)
    held = open_page()
    held.get_by_role("button", name="I agree").click()
    held.get_by_role("button", name="I have read").click()
    for _ in range(2):
        held.wait_for_selector("body[data-kind=thumbs] #task[aria-busy=false]")
        held.keyboard.press("s")
        held.wait_for_selector("#training-result")
        held.keyboard.press("Enter")
    held.wait_for_url("**/held")
    assert unmarked(held, *names) == set()


@pytest.mark.usefixtures("marked")
@pytest.mark.parametrize("path", ["/login", "/invite/unknown", "/nowhere"])
def test_pages_at_the_door_say_nothing_else(open_page: Callable[..., Any], path: str) -> None:
    assert unmarked(open_page(path, name="")) == set()


# The buttons that are shown, all in one answer: text, left and right border, the width that the text needs and has.
BUTTONS = """[...document.querySelectorAll("#controls :is(button, label.choice), .line button, nav button")]
  .filter(button => button.getClientRects().length)
  .map(button => [button.innerText, button.getBoundingClientRect().left, button.getBoundingClientRect().right,
                  button.scrollWidth, button.clientWidth])"""


@pytest.mark.parametrize("language", LANGUAGES)
def test_keys_fit_on_a_phone_in_every_language(
    open_page: Callable[..., Any], store: FeedbackStore, language: str
) -> None:
    store.add_items([NewItem(kind, "p", ("a", "b", "c")[:n], priority=-i) for i, (kind, n) in enumerate(KINDS.items())])
    page = open_page(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, locale=language)
    for kind in KINDS:
        page.wait_for_selector(f"body[data-kind={kind}] #task[aria-busy=false]")
        assert page.get_attribute("html", "lang") == language
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        buttons = page.evaluate(BUTTONS)
        assert len(buttons) > 5
        for text, left, right, width, room in buttons:
            assert 0 <= left <= right <= 390, text
            assert width <= room, text
        page.locator("#skip").tap()
