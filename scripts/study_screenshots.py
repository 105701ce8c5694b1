"""Take the pictures of the study's page in docs/images, in headless Chromium: `python scripts/study_screenshots.py`.

It needs the extra `web`, playwright and Chromium. Look at the pictures before they are committed.
"""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

import uvicorn
from playwright.sync_api import sync_playwright

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.settings_file import read_settings_file
from rlhf_envs.feedback.web import create_app

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
PASSWORD = "a password for pictures"
PROMPT = "The film opens with"
TEXTS = (
    " a long shot of the harbour, and nothing in the next two hours is half as good. I loved every minute of it.",
    " a joke that lands, a chase that is over too soon, and a song. Rarely have so few words said so much.",
)
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}


def main() -> None:
    """Serve the example's study from a store of its own, and photograph it."""
    with tempfile.TemporaryDirectory() as folder, FeedbackStore(Path(folder, "feedback.db"), seed=0) as store:
        store.update_settings(**read_settings_file(ROOT / "examples" / "study" / "study.toml"))
        store.add_items([NewItem("pairwise", PROMPT, TEXTS, overlap=9) for _ in range(9)])
        app = create_app(store, secret=b"for pictures only, of no account")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
            thread = threading.Thread(target=server.run, args=([listener],))
            thread.start()
            try:
                _photograph(f"http://127.0.0.1:{listener.getsockname()[1]}", store)
            finally:
                server.should_exit = True
                thread.join()


def _photograph(address: str, store: FeedbackStore) -> None:
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for name, options in (("study", DESKTOP), ("study-phone", PHONE)):
            page = browser.new_context(**options).new_page()
            page.goto(f"{address}/invite/{store.invite()}")
            page.fill("[name=name]", re.sub(r"\W", "", name))
            page.fill("[name=password]", PASSWORD)
            page.click("form .primary")
            page.wait_for_url("**/guidelines")
            page.click("form .primary")
            page.wait_for_selector("body[data-kind=pairwise] #task[aria-busy=false]")
            for key in ("2", "6", "2", "1", "ArrowRight", "ArrowRight", "Shift+ArrowRight", "1"):
                page.keyboard.press(key)
            page.screenshot(path=IMAGES / f"{name}.png")
            page.keyboard.press("s")
        browser.close()


if __name__ == "__main__":
    main()
