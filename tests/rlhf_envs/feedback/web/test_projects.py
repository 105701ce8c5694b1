"""Several projects in one server: paths, links, isolation, and the page that leads to them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from starlette.applications import Starlette

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.web import create_app
from rlhf_envs.feedback.web.projects import create_projects
from rlhf_envs.feedback.web.store_names import name_stores

PASSWORD = "correct horse"


@pytest.fixture
def stores(tmp_path: Path, empty_store: Path) -> Iterator[dict[str, FeedbackStore]]:
    with ExitStack() as opened:
        found = {}
        for name in ("red", "blue"):
            shutil.copy(empty_store, tmp_path / f"{name}.db")
            found[name] = opened.enter_context(FeedbackStore(tmp_path / f"{name}.db", seed=0))
            found[name].add_items([NewItem("thumbs", f"a prompt of {name}", ("c",))])
        yield found


@pytest.fixture
def whole(stores: dict[str, FeedbackStore]) -> Starlette:
    return create_projects(
        {
            name: create_app(store, secret=name.encode() * 8, url=f"http://here/{name}", project=name)
            for name, store in stores.items()
        }
    )


@pytest.fixture
def client(whole: Starlette) -> Iterator[TestClient]:
    with TestClient(whole, follow_redirects=False, raise_server_exceptions=False) as client:
        yield client


def form_token(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found, page
    return found[1]


def register(client: TestClient, store: FeedbackStore, project: str, name: str, role: str) -> None:
    path = f"/{project}/invite/{store.invite(role)}"
    data = {"csrf": form_token(client.get(path).text), "name": name, "password": PASSWORD}
    answer = client.post(path, data=data)
    first = "admin" if role == "admin" else "annotate"
    assert (answer.status_code, answer.headers["location"]) == (303, f"/{project}/{first}")


def test_each_project_is_served_below_its_name(client: TestClient, stores: dict[str, FeedbackStore]) -> None:
    assert client.get("/red/").headers["location"] == "/red/login"  # the start goes by who has signed in
    assert client.get("/red/annotate").headers["location"] == "/red/login"
    register(client, stores["red"], "red", "ada", "admin")
    page = client.get("/red/annotate").text
    assert '<meta name="root" content="/red">' in page
    assert 'src="/red/static/annotate.js"' in page
    token = client.get("/red/api/session").json()["csrf"]
    state = client.post("/red/api/claim", headers={"X-CSRF-Token": token}).json()
    assert state["task"]["prompt"] == "a prompt of red"
    for path in ("static/annotate.js", "admin", "admin/items", "admin/items/1", "admin/people/1", "admin/upload"):
        answer = client.get(f"/red/{path}")
        assert answer.status_code == 200, path
        # No address of a page leaves the project, but for the page that leads to the projects.
        assert set(re.findall(r'(?:href|action|src)="(/[^"]*)"', answer.text)) <= {"/"} | {
            address for address in re.findall(r'"(/red(?:/[^"]*)?)"', answer.text)
        }, path


def test_an_account_of_one_project_is_nobody_in_another(client: TestClient, stores: dict[str, FeedbackStore]) -> None:
    register(client, stores["red"], "red", "ada", "admin")
    assert client.get("/red/admin").status_code == 200
    assert client.get("/blue/admin").headers["location"] == "/blue/login"
    assert client.get("/blue/api/session").status_code == 401
    red = client.cookies["rlhf_feedback_red"]
    client.cookies.set("rlhf_feedback_blue", red)
    assert client.get("/blue/admin").headers["location"] == "/blue/login"
    assert stores["blue"].annotators() == []


def test_links_carry_the_project(client: TestClient, stores: dict[str, FeedbackStore]) -> None:
    register(client, stores["blue"], "blue", "ada", "admin")
    page = client.get("/blue/admin").text
    made = client.post("/blue/admin/invitations", data={"csrf": form_token(page), "role": "annotator"}).text
    link = re.search(r'value="http://here(/blue/invite/[^"]+)"', made)
    assert link
    assert client.get(link[1]).status_code == 200
    assert stores["blue"].invited_name(link[1].rsplit("/", 1)[1]) is None
    answer = client.post("/blue/admin/pause", data={"csrf": form_token(page), "paused": "true"})
    assert answer.headers["location"] == "/blue/admin"
    assert [store.settings.paused for store in stores.values()] == [False, True]


def test_the_front_page_names_only_the_projects_that_one_is_signed_in_to(
    client: TestClient, stores: dict[str, FeedbackStore]
) -> None:
    page = client.get("/").text
    assert "red" not in page
    assert "not signed in to any project" in page
    register(client, stores["red"], "red", "ada", "admin")
    page = client.get("/").text
    assert 'href="/red/admin"' in page
    assert "/blue/" not in page
    register(client, stores["blue"], "blue", "ben", "annotator")
    assert 'href="/blue/annotate"' in client.get("/").text
    stores["red"].end_sessions("ada")
    assert "/red/" not in client.get("/").text


def test_what_is_in_no_project_is_not_found_and_guarded(client: TestClient) -> None:
    answer = client.get("/green/annotate")
    assert answer.status_code == 404
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert client.get("/red/nothing").status_code == 404
    assert client.get("/red/api/nothing").json() == {"detail": "Not Found"}
    assert client.get("/static/style.css").headers["cache-control"] == "no-cache"
    assert client.get("/red/static/style.css").headers["cache-control"] == "no-cache"


def test_stores_are_named_by_the_user_or_by_their_file() -> None:
    assert name_stores(["feedback.db"]) == "feedback.db"
    assert name_stores(["postgresql://host/x?a=b"]) == "postgresql://host/x?a=b"
    assert name_stores(["red=a.db"]) == {"red": "a.db"}
    assert name_stores(["data/My Study.db", "b=postgresql://h/x"]) == {
        "my-study": "data/My Study.db",
        "b": "postgresql://h/x",
    }
    for given, said in (
        (["a.db", "x/a.db"], "a project 'a' already"),
        (["a.db", "postgresql://h/x"], "needs a name"),
        (["admin=a.db"], "'admin' cannot be a project's name"),
        (["a.db", "中.db"], "cannot be a project's name"),
    ):
        with pytest.raises(ValueError, match=said):
            name_stores(given)


def test_no_template_has_an_address_that_leaves_its_project() -> None:
    folder = Path(__file__).parents[4] / "rlhf_envs" / "feedback" / "web"
    for path in (folder / "templates").rglob("*.html"):
        assert not re.findall(r'(?:href|action|src)="/', path.read_text(encoding="utf-8")), path
    for path in (folder / "static").rglob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"""(?:fetch|assign|import|open)\(["'`]/""", text), path


def test_the_annotation_page_works_below_a_project(
    chromium: object, whole: Starlette, stores: dict[str, FeedbackStore], serve_app: Callable[[object], str]
) -> None:
    address = serve_app(whole)
    context = chromium.new_context()  # type: ignore[attr-defined]
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{address}/blue/invite/{stores['blue'].invite()}")
    page.wait_for_selector("input[name=name]:focus")
    page.keyboard.type("ada")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-kind=thumbs] #task[aria-busy=false]")
    page.keyboard.press("1")
    page.wait_for_selector("body[data-kind=none]")
    page.get_by_role("link", name="Projects").click()
    page.get_by_role("link", name="blue").click()
    page.wait_for_url("**/blue/annotate")
    context.close()
    assert [judgement.value for judgement in stores["blue"].judgements()] == [{"up": True}]
    assert stores["red"].judgements() == []
