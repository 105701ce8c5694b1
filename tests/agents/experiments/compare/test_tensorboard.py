"""A comparison in TensorBoard, in headless Chromium: all runs on one chart, and the page of hyperparameters."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agents
from agents.experiments.compare.config import CompareConfig

pytestmark = pytest.mark.slow  # the events themselves are read in test_compare.py

RUNS = {"a2c/seed_00", "a2c/seed_01", "ppo/seed_00", "ppo/seed_01"}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The system's Chromium; without it the test is skipped, in CI it fails."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium on this machine: apt-get install chromium")
        pytest.skip("no chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chosen: dict[str, Any] = dict(env="rlhf/TokenBandit-v0", algos=["ppo", "a2c"], seeds=2, tokens=384, n_envs=32)
    folder = tmp_path_factory.mktemp("board") / "c"
    agents.compare(CompareConfig(**chosen, test_episodes=8, evaluations=2, folder=str(folder)), lambda _: None)
    return folder


@pytest.fixture(scope="module")
def board(comparison: Path) -> Iterator[str]:
    """The address of a TensorBoard over the comparison that has read all runs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(comparison), "--host", "127.0.0.1"]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for_runs(f"{address}/data/runs", process)
        yield address
    finally:
        process.terminate()
        process.wait()


def _wait_for_runs(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "TensorBoard ended"
        try:
            with urllib.request.urlopen(address) as answer:
                if answer.read().count(b"seed_") == len(RUNS):
                    return
        except urllib.error.URLError:
            pass
        time.sleep(0.2)
    raise AssertionError("TensorBoard has not found the runs")


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(60_000)
    yield page
    context.close()


def test_all_runs_are_on_one_chart(board: str, page: Any) -> None:
    page.goto(f"{board}/#custom_scalars")
    chart = page.locator("tf-custom-scalar-multi-line-chart-card").first
    chart.get_by_text(f"Matches ({len(RUNS)})").wait_for()
    chart.locator(".toggle-matches-button").click()
    found = chart.locator("#matches-list")
    for run in RUNS:
        found.get_by_text(run).first.wait_for()
    assert chart.locator("#matches-list").get_by_text("held_out/reward").count() >= len(RUNS)


def test_the_hyperparameters_stand_beside_the_held_out_figures(board: str, page: Any) -> None:
    page.goto(f"{board}/#hparams")
    table = page.locator("tf-hparams-table-view")
    for text in (*RUNS, "held_out/reward", "algorithm", "kl_coef"):
        table.get_by_text(text, exact=True).first.wait_for()
