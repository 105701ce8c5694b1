"""Time from the key that answers an item to the next item on the page, in Chromium, by keyboard only.

`python -m benchmarks.feedback.key_to_next` fills a store with 10,000 items of all kinds and 32 annotators who have
judged some of them, serves it as a process of its own, signs in at the page, and answers `--answers` items in turns of
the kinds. A stopwatch in the page starts at the keydown that sends the answer and stops when the next item is painted
(two animation frames after its prompt has changed). `--store postgresql://...` takes another database, which must be
empty. Ends with 1 if the median is above 0.15 s. Times depend on the machine and on what else runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.store.restoring import PastJudgement, restore
from rlhf_envs.feedback.web.passwords import Passwords

from .clients import PASSWORD, Server

__all__ = ["KEYS", "fill", "main"]

MOST_SECONDS = 0.15
TEXT = "It was a long film about a lighthouse, and nothing in it was quite what it seemed to be. " * 4
# kind -> (completions, answer for the past, keys of which the last sends)
KEYS: dict[str, tuple[int, dict[str, Any], tuple[str, ...]]] = {
    "pairwise": (2, {"choice": 0, "strength": 1}, ("2",)),
    "ranking": (3, {"order": [2, 0, 1]}, ("1", "2", "Enter")),
    "rating": (1, {"rating": 4}, ("4",)),
    "thumbs": (1, {"up": True}, ("1",)),
    "correction": (1, {"text": "better"}, ("e", "x", "Control+Enter")),
    "flags": (1, {"harms": []}, ("1", "Enter")),
}
STOPWATCH = """() => {
  window.times = [];
  let since = null, shown = null;
  const prompt = document.getElementById("prompt");
  document.addEventListener("keydown", () => { since = performance.now(); shown = prompt.textContent; }, true);
  new MutationObserver(() => {
    if (since === null || prompt.textContent === shown || !prompt.textContent) return;
    const start = since;
    since = null;
    requestAnimationFrame(() => requestAnimationFrame(() => window.times.push((performance.now() - start) / 1000)));
  }).observe(prompt, { childList: true, characterData: true, subtree: true });
}"""


def fill(store: FeedbackStore, n_items: int, n_annotators: int) -> None:
    """Put items of all kinds into an empty store, a tenth of them judged, and one person with a password."""
    kinds = list(KEYS)
    items = [
        NewItem(kind, f"Question {k}", tuple(f"{k}.{c} {TEXT}" for c in range(KEYS[kind][0])), overlap=3)
        for k, kind in ((k, kinds[k % len(kinds)]) for k in range(n_items))
    ]
    ids = store.add_items(items)
    names = [f"annotator-{k}" for k in range(n_annotators)]
    for name in names:
        store.add_annotator(name)
    past = [
        (ids[-1 - k], PastJudgement(names[(k + j) % n_annotators], KEYS[items[-1 - k].kind][1], seconds=5.0))
        for k in range(n_items // 10)
        for j in range(min(3, n_annotators))
    ]
    restore(store, past, {})
    store.register(store.invite(), "typist", Passwords().hash(PASSWORD))


def measure(page: Any, answers: int) -> dict[str, list[float]]:
    """Answer so many items by keyboard. Return the times by the kind that was answered."""
    page.evaluate(STOPWATCH)
    times: dict[str, list[float]] = defaultdict(list)
    for done in range(answers):
        kind = page.evaluate("document.body.dataset.kind")
        for key in KEYS[kind][2]:
            page.keyboard.press(key)
        _wait(page, f"window.times.length > {done}")
        times[kind].append(page.evaluate("window.times.at(-1)"))
    return times


def _wait(page: Any, condition: str) -> None:
    """Wait until an expression is true in the page, whose policy forbids Playwright's own way (it evaluates text)."""
    end = time.monotonic() + 60
    while not page.evaluate(condition):
        if time.monotonic() > end:
            raise TimeoutError(f"the page did not come to {condition} within 60 s")
        time.sleep(0.02)


def main(arguments: list[str] | None = None) -> float:
    """Print the times by kind, and return the median of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="an empty store; a temporary SQLite file by default")
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--annotators", type=int, default=32)
    args = parser.parse_args(arguments)
    from playwright.sync_api import sync_playwright

    with TemporaryDirectory() as folder:
        url = args.store or str(Path(folder, "feedback.db"))
        with FeedbackStore(url) as store:
            if store.progress().items:
                parser.error("--store has items already: give an empty one")
            fill(store, args.items, args.annotators)
        server = Server(url)
        server.start()
        try:
            with sync_playwright() as playwright:
                chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                page = chromium.new_page()
                page.set_default_timeout(60_000)
                page.goto(f"http://127.0.0.1:{server.port}/login")
                page.fill("input[name=name]", "typist")
                page.fill("input[name=password]", PASSWORD)
                page.keyboard.press("Enter")
                page.wait_for_url("**/annotate")
                _wait(page, "document.body?.dataset.kind in " + json.dumps(dict.fromkeys(KEYS, 1)))
                start = time.perf_counter()
                times = measure(page, args.answers)
                took = time.perf_counter() - start
                chromium.close()
        finally:
            server.kill()
    every = [seconds for own in times.values() for seconds in own]
    print("| kind | answers | median s | 95th percentile s |\n|---|---|---|---|")
    for name, own in [*sorted(times.items()), ("all", every)]:
        high = sorted(own)[max(0, round(0.95 * len(own)) - 1)]
        print(f"| {name} | {len(own)} | {statistics.median(own):.3f} | {high:.3f} |")
    median = statistics.median(every)
    reached = "reached" if median <= MOST_SECONDS else "MISSED"
    print(f"\nmedian {median:.3f} s ({reached}: at most {MOST_SECONDS} s), {len(every)} answers in {took:.0f} s")
    return median


if __name__ == "__main__":
    sys.exit(1 if main() > MOST_SECONDS else 0)
