"""Forecast what a target accuracy of a reward model takes: on a press of a button, in a process of its own."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel

from ...criteria import all_criteria, derive, read_criterion
from ...forecasts import Forecaster, LabelForecast
from ...store.store import FeedbackStore
from ..auth import Admin, Store
from ..pages import FormChecked, render
from ..responses import AsciiJSON, problems
from .figures import figures_of

__all__ = ["Forecasts", "api", "cost_lines", "pages"]

logger = logging.getLogger(__name__)

pages = APIRouter(prefix="/admin/forecast")
api = APIRouter(tags=["admin"])

NO_FORECASTER = "this server cannot forecast: start it with rlhf feedback serve"


@dataclass(frozen=True)
class Standing:
    """Say where the forecast of a project stands.

    Attributes:
        state: "none" before the first, "running", "done" or "failed".
        target: the accuracy that was asked for.
        criterion: the project's own question that it is about; "" for the questions of the items' kinds.
        begun: when it was begun (UTC).
        fit, of: the number of the fit that runs, and how many there are; 0 before the first.
        problem: why it failed.
        found: what was found last. It stays while another runs.
        found_at: when, and `found_criterion` about what.
    """

    state: Literal["none", "running", "done", "failed"] = "none"
    target: float = 0.75
    criterion: str = ""
    begun: datetime | None = None
    fit: int = 0
    of: int = 0
    problem: str = ""
    found: LabelForecast | None = None
    found_at: datetime | None = None
    found_criterion: str = ""


class Forecasts:
    """Run a project's forecasts, one at a time, in a process that gives way to the server.

    Args:
        store: the project's store.
        forecaster: makes the forecast: `rlhf_envs.preferences.forecast_labels`, which this package cannot import.
            It must be a function that can be pickled. None: there are no forecasts.
    """

    def __init__(self, store: FeedbackStore, forecaster: Forecaster | None = None) -> None:
        self._store, self._forecaster = store, forecaster
        self._lock = threading.Lock()
        self._standing = Standing()
        self._process: multiprocessing.process.BaseProcess | None = None

    @property
    def are_possible(self) -> bool:
        return self._forecaster is not None

    def now(self) -> Standing:
        """Return where the forecast stands."""
        with self._lock:
            return self._standing

    def begin(self, target: float, criterion: str = "") -> None:
        """Begin a forecast. It reads the labels that are there now.

        Raises:
            ValueError: one runs already, there is no forecaster, or no such criterion.
        """
        if self._forecaster is None:
            raise ValueError(NO_FORECASTER)
        if criterion and criterion not in criteria_of(self._store):
            raise ValueError(f"criterion {criterion!r} is no question whose answers compare completions")
        with self._lock:
            if self._standing.state == "running":
                raise ValueError("a forecast is being made already: wait for it")
            before = self._standing
            begun = Standing("running", target, criterion, datetime.now(UTC))
            self._standing = replace(
                begun, found=before.found, found_at=before.found_at, found_criterion=before.found_criterion
            )
        threading.Thread(target=self._run, args=(target, criterion), daemon=True).start()

    def stop(self) -> None:
        """End the forecast that runs, if one does."""
        if self._process is not None:
            self._process.terminate()

    def _run(self, target: float, criterion: str) -> None:
        """Wait for the process, and keep what it says."""
        try:
            found = self._ask_process(target, criterion)
        except Exception as error:  # a thread has nobody to tell but the page
            if not isinstance(error, ValueError | ImportError):
                logger.exception("the forecast of %s failed", self._store.url)
            self._set(state="failed", problem=str(error) or type(error).__name__)
        else:
            self._set(state="done", found=found, found_at=datetime.now(UTC), found_criterion=criterion)

    def _ask_process(self, target: float, criterion: str) -> LabelForecast:
        """Return the forecast of a new process.

        Raises:
            ValueError: what the forecaster raised as ValueError or ImportError.
            RuntimeError: the process ended without an answer.
        """
        if criterion:
            read = read_criterion(self._store, criterion, "pairs", None)
            items, judgements = read.items, read.judgements
        else:
            items, judgements = self._store.items(), self._store.judgements()
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(theirs, self._forecaster, items, judgements, target), daemon=True)
        process.start()
        self._process = process
        theirs.close()
        try:
            while not isinstance(said := ours.recv(), LabelForecast):
                if isinstance(said, str):
                    raise ValueError(said)
                self._set(fit=said[0], of=said[1])
        except EOFError:
            process.join()
            raise RuntimeError(
                f"the process of the forecast ended with the code {process.exitcode}: see the server's log"
            ) from None
        process.join()
        return said

    def _set(self, **changes: Any) -> None:
        with self._lock:
            self._standing = replace(self._standing, **changes)


def _work(pipe: Connection, forecaster: Forecaster, items: list[Any], judgements: list[Any], target: float) -> None:
    """Make a forecast in a process of its own, and send the number of each fit, and the forecast or what is wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's, which ends this process
    os.nice(10)  # people who label come first
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        found = forecaster(items, judgements, target, on_fit=lambda number, of: pipe.send((number, of)))
    except (ValueError, ImportError) as error:
        pipe.send(str(error))
    else:
        pipe.send(found)


def _end_with_parent() -> None:
    """End this process when the server has ended. multiprocessing does so only if the server leaves by `sys.exit`."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)


class Progress(BaseModel):
    """Say how far a forecast is."""

    state: str
    fit: int
    of: int


@api.get("/forecast", response_model=Progress, responses=problems(401, 403))
def progress(request: Request, admin: Admin) -> Response:
    """Return how far the forecast is that an admin has begun."""
    standing = forecasts_of(request).now()
    return AsciiJSON({"state": standing.state, "fit": standing.fit, "of": standing.of})


@pages.get("")
def forecast_page(request: Request, store: Store, admin: Admin) -> Response:
    return _page(request, store)


@pages.post("", dependencies=[FormChecked])
def begin(
    request: Request,
    store: Store,
    admin: Admin,
    target: Annotated[float, Form(gt=0.5, lt=1)],
    criterion: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    try:
        forecasts_of(request).begin(target, criterion)
    except ValueError as error:
        return _page(request, store, 422, refused=str(error))
    return RedirectResponse("/admin/forecast", 303)


def forecasts_of(request: Request) -> Forecasts:
    """Return the app's forecasts."""
    return cast(Forecasts, request.app.state.forecasts)


def criteria_of(store: FeedbackStore) -> list[str]:
    """Return the project's own questions whose answers compare completions."""
    names = []
    for name, criterion in all_criteria(store.versions()).items():
        try:
            derive([], [], criterion, "pairs")
        except ValueError:  # it says of no completion that it is better
            continue
        names.append(name)
    return names


def cost_lines(request: Request, store: FeedbackStore) -> dict[str, str]:
    """Return what the last forecast says in words: its labels, hours and money with their intervals. {} without one."""
    found = forecasts_of(request).now().found
    if found is None or not found.labels or found.labels_interval is None:
        return {}
    summary, price = figures_of(request).get(), store.settings.cost
    of = [summary.cost.of_labels(n, summary.judgements, price) for n in (found.labels, *found.labels_interval)]
    lines = {"Labels": _with_interval([found.labels, *found.labels_interval], "{:,.0f}")}
    lines["Hours, at the mean time so far"] = _with_interval([hours for hours, _ in of], "{:,.1f}")
    if all(money is not None for _, money in of):
        lines[f"Cost {price.currency}".rstrip()] = _with_interval([cast(float, money) for _, money in of], "{:,.2f}")
    return lines


def _with_interval(numbers: list[float], form: str) -> str:
    middle, low, high = numbers
    ends = f"{form.format(low)} to {form.format(high)}" if math.isfinite(high) else f"{form.format(low)} or more"
    return f"{form.format(middle)} ({ends})"


def _page(request: Request, store: FeedbackStore, status: int = 200, **more: Any) -> Response:
    forecasts = forecasts_of(request)
    context: Mapping[str, Any] = {
        "standing": forecasts.now(),
        "possible": forecasts.are_possible,
        "no_forecaster": NO_FORECASTER,
        "criteria": criteria_of(store),
        "lines": cost_lines(request, store),
        **more,
    }
    return render(request, "admin/forecast.html", dict(context), status)
