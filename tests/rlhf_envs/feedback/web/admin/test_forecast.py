"""Forecasts on the admin's page: made on a press of a button in another process, shown with cost and time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.annotating import Response, work
from rlhf_envs.feedback.forecasts import Forecast, LabelForecast
from rlhf_envs.feedback.settings import Cost
from rlhf_envs.feedback.settings_file import parse_settings
from rlhf_envs.feedback.web.admin.forecast import Forecasts

SignIn = Callable[..., TestClient]
SIZES, ACCURACY, INTERVALS = [10, 20], [0.55, 0.65], [(0.5, 0.6), (0.6, 0.7)]
CURVE = Forecast(SIZES, ACCURACY, INTERVALS, 60.0, (40.0, float("inf")), 0.9, "")


STUDY = """
[[questions]]
name = "truer"
text = "Which is truer?"
type = "choice"

[[questions]]
name = "why"
text = "Why?"
type = "text"
required = false
"""


# The forecasters stand at the top of a module, since another process must find them.
def found(items: Sequence[Any], judgements: Sequence[Any], target: float, on_fit: Any) -> LabelForecast:
    on_fit(1, 2)
    on_fit(2, 2)
    return LabelForecast(target, CURVE, 10.0 * len(judgements), (5.0 * len(judgements), float("inf")))


def cannot_tell(items: Any, judgements: Any, target: float, on_fit: Any) -> LabelForecast:
    return LabelForecast(target, CURVE._replace(needed=None, needed_interval=None, why_not="it is flat"), None, None)


def reached(items: Any, judgements: Any, target: float, on_fit: Any) -> LabelForecast:
    return LabelForecast(target, CURVE._replace(needed=20.0, needed_interval=None), 0.0, None)


def too_few(items: Any, judgements: Any, target: float, on_fit: Any) -> LabelForecast:
    raise ValueError("<b>7</b> pairs are too few")


def dies(items: Any, judgements: Any, target: float, on_fit: Any) -> LabelForecast:
    os._exit(7)


def waits(items: Any, judgements: Any, target: float, on_fit: Any) -> LabelForecast:
    on_fit(3, 20)
    time.sleep(300)
    raise AssertionError("the test ended long ago")


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the forecasts' processes from the tests' server of processes: new ones import everything again, 1.2 s each.

    A forecast in a new process is made by the server that is ended, in a program of its own.
    """
    context = multiprocessing.get_context("forkserver")
    patched = SimpleNamespace(get_context=lambda method: context)
    monkeypatch.setattr("rlhf_envs.feedback.web.admin.forecast.multiprocessing", patched)


@pytest.fixture
def admin(sign_in: SignIn, store: FeedbackStore) -> TestClient:
    """An admin of a project with four labels that took 36 s each."""
    store.add_items([NewItem("pairwise", f"p{i}", ("a", "b")) for i in range(4)])
    work(store, "ada", lambda task: Response({"choice": 0, "strength": 1}, seconds=36.0))
    return sign_in("root", "admin")


def press(client: TestClient, target: float = 0.8, **fields: str) -> Any:
    data = {"csrf": client.headers["X-CSRF-Token"], "target": str(target), **fields}
    return client.post("/admin/forecast", data=data)


def use(app: FastAPI, store: FeedbackStore, forecaster: Any) -> Forecasts:
    app.state.forecasts = forecasts = Forecasts(store, forecaster)
    return forecasts


def wait(client: TestClient, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while (now := client.get("/api/admin/forecast").json())["state"] != state:
        assert time.monotonic() < deadline and now["state"] == "running", now
        time.sleep(0.05)
    return dict(now)


def test_labels_hours_and_cost_are_shown_with_their_intervals(
    app: FastAPI, admin: TestClient, store: FeedbackStore
) -> None:
    use(app, store, found)
    store.update_settings(cost=Cost(per_label=0.5, per_hour=10.0, currency="EUR"))
    answer = press(admin)
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/forecast")
    assert wait(admin, "done") == {"state": "done", "fit": 2, "of": 2}
    page, overview = admin.get("/admin/forecast").text, admin.get("/admin").text
    for text in (page, overview):  # 40 labels of 36 s: 0.4 hours, 20 + 4 EUR
        assert "40 (20 or more)" in text
        assert "0.4 (0.2 or more)" in text
        assert "24.00 (12.00 or more)" in text
        assert "Cost EUR" in text
    assert "An accuracy of 0.8" in page
    assert "0.600 to 0.700" in page


def test_without_a_price_there_is_no_cost(app: FastAPI, admin: TestClient, store: FeedbackStore) -> None:
    use(app, store, found)
    press(admin)
    wait(admin, "done")
    page = admin.get("/admin/forecast").text
    assert "40 (20 or more)" in page
    assert "Cost" not in page


@pytest.mark.parametrize(
    ("forecaster", "words", "short"),
    [
        (cannot_tell, "How many labels it takes cannot be told: it is flat.", "it cannot be told."),
        (reached, "It is reached with the labels that there are.", "it is reached."),
    ],
)
def test_what_needs_no_more_labels_or_cannot_be_told_is_said(
    app: FastAPI, admin: TestClient, store: FeedbackStore, forecaster: Any, words: str, short: str
) -> None:
    use(app, store, forecaster)
    press(admin)
    wait(admin, "done")
    assert words in admin.get("/admin/forecast").text
    assert short in admin.get("/admin").text


@pytest.mark.parametrize(
    ("forecaster", "words"),
    [
        (too_few, "No forecast: &lt;b&gt;7&lt;/b&gt; pairs are too few"),
        (dies, "No forecast: the process of the forecast ended with the code 7"),
    ],
)
def test_a_forecast_that_fails_says_why(
    app: FastAPI, admin: TestClient, store: FeedbackStore, forecaster: Any, words: str
) -> None:
    use(app, store, forecaster)
    press(admin)
    wait(admin, "failed")
    assert words in admin.get("/admin/forecast").text
    assert press(admin).status_code == 303, "another may be begun"
    wait(admin, "failed")


def test_no_page_waits_for_a_forecast_and_one_runs_at_a_time(
    app: FastAPI, admin: TestClient, store: FeedbackStore
) -> None:
    forecasts = use(app, store, waits)
    press(admin)
    while not forecasts.now().of:
        time.sleep(0.05)
    assert admin.get("/api/admin/forecast").json() == {"state": "running", "fit": 3, "of": 20}
    page = admin.get("/admin/forecast").text
    assert "fit 3 of 20" in page
    assert "<button disabled>Forecast</button>" in page
    assert "a forecast is being made." in admin.get("/admin").text
    again = press(admin)
    assert again.status_code == 422
    assert "being made already" in again.text
    forecasts.stop()
    wait(admin, "failed")


SERVER = """
import os, sys, time
from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.feedback.web.server import serve

def forecaster(items, judgements, target, on_fit):
    print(os.getpid(), flush=True)
    time.sleep(300)

if __name__ == "__main__":
    from rlhf_envs.feedback.web import server
    create_app = server.create_app

    def create_and_begin(*arguments, **options):
        app = create_app(*arguments, **options)
        app.state.forecasts.begin(0.8)
        return app

    server.create_app = create_and_begin
    serve(sys.argv[1], port=0, forecaster=forecaster)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_forecast_ends_with_its_server_however_that_ends(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "server.py").write_text(SERVER)
    command = [sys.executable, tmp_path / "server.py", tmp_path / "feedback.db"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        forecast = int(next(line for line in server.stdout if line.strip().isdecimal()))
        server.send_signal(how)
        try:
            server.communicate(timeout=60)  # the output ends when both processes have ended
        except subprocess.TimeoutExpired:
            os.kill(forecast, signal.SIGKILL)
            pytest.fail("the forecast has outlived its server")


def test_a_server_without_a_forecaster_says_so(admin: TestClient) -> None:
    assert "this server cannot forecast" in admin.get("/admin/forecast").text
    assert press(admin).status_code == 422


def test_an_own_question_that_compares_completions_can_be_forecast(
    app: FastAPI, admin: TestClient, store: FeedbackStore
) -> None:
    use(app, store, found)
    store.update_settings(**parse_settings(STUDY))
    page = admin.get("/admin/forecast").text
    assert "<option>truer</option>" in page
    assert "<option>why</option>" not in page
    refused = press(admin, criterion="why")
    assert refused.status_code == 422
    assert "no question whose answers compare completions" in refused.text
    store.add_items([NewItem("pairwise", "q", ("a", "b"))])
    answers = {"truer": {"choice": 1, "strength": 1}}
    work(store, "bob", lambda task: Response({"choice": 0, "strength": 1}, answers=answers))
    press(admin, criterion="truer")
    wait(admin, "done")
    page = admin.get("/admin/forecast").text
    assert "An accuracy of 0.8 at truer" in page
    assert "10 (5 or more)" in page, "of the one answer to it"


@pytest.mark.parametrize("target", [0.5, 1.0, 7.0])
def test_a_target_that_is_no_accuracy_is_refused(
    app: FastAPI, admin: TestClient, store: FeedbackStore, target: float
) -> None:
    forecasts = use(app, store, found)
    assert press(admin, target).status_code == 422
    assert forecasts.now().state == "none"
