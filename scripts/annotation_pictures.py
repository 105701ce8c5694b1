"""Take the pictures of the feedback pages in docs/images: an item in English, in Chinese, on a phone; the overview.

    python scripts/annotation_pictures.py

It needs Chromium, and fonts for Chinese. The page is served from a store of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
from base64 import b64encode
from pathlib import Path
from typing import Any

import uvicorn
from itsdangerous import TimestampSigner
from playwright.sync_api import sync_playwright

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.simulated import annotate, simulated_crowd
from rlhf_envs.feedback.web import create_app
from rlhf_envs.feedback.web.auth import COOKIE
from rlhf_envs.preferences import crowd_figures
from rlhf_envs.rewards import get_reward

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SECRET = os.urandom(32)

ENGLISH = [
    ("user", "How do I open a file in Python?"),
    ("assistant", "Use `with open(path) as file:`. It closes the file by itself."),
    ("user", "Thanks! Now write a function that returns the mean of a list, and say what an empty list does."),
]
CODE = """Here it is:

```python
def mean(values: list[float]) -> float:
    if not values:
        raise ValueError("no values")  # nothing to divide by
    return sum(values) / len(values)
```

| input | result |
|---|--:|
| `[1, 2, 3]` | 2.0 |
| `[]` | **error** |"""
FORMULA = r"""Use the **statistics** module:

```python
from statistics import mean
print(mean([1, 2, 3]))
```

1. It is in the standard library.
2. It raises `StatisticsError` for an empty list.

$$ \bar x = \frac{x_1 + x_2 + \dots + x_n}{n} $$"""
CHINESE = [
    ("user", "怎么用 Python 读文件？"),
    ("assistant", "用 `with open(路径) as 文件:` 就可以了，它会自己关闭文件。"),
    ("user", "谢谢！请写一个函数，返回一列数的平均值，并说明空列表会怎样。"),
]
CHINESE_CODE = """当然可以：

```python
def 平均(数: list[float]) -> float:
    return sum(数) / len(数)  # 求平均值
```

| 输入 | 结果 |
|---|--:|
| `[1, 2, 3]` | 2.0 |
| `[]` | **错误** |"""
CHINESE_FORMULA = r"""可以用标准库里的 **statistics**：

```python
from statistics import mean
print(mean([1, 2, 3]))
```

- 空列表会抛出异常
- 结果是 $\bar x = \frac{x_1 + \dots + x_n}{n}$"""

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
DESKTOP = {"viewport": {"width": 1280, "height": 800}}
# name -> (the item, options of the browser)
PICTURES: dict[str, tuple[int, dict[str, Any]]] = {
    "annotate-conversation": (0, DESKTOP),
    "annotate-chinese": (1, {**DESKTOP, "locale": "zh-CN", "color_scheme": "dark"}),
    "annotate-conversation-phone": (0, PHONE),
}


def item(talk: list[tuple[str, str]], *completions: str) -> NewItem:
    messages = [{"role": role, "content": text} for role, text in talk]
    return NewItem("pairwise", "", completions, meta={"messages": messages})


def main() -> None:
    folder = tempfile.mkdtemp()
    items = [item(ENGLISH, CODE, FORMULA), item(CHINESE, CHINESE_CODE, CHINESE_FORMULA)]
    for name, (which, options) in PICTURES.items():
        with FeedbackStore(Path(folder, f"{name}.db"), seed=0) as store:
            store.update_settings(render="markdown")
            store.add_items([items[which]])
            take(store, IMAGES / f"{name}.png", options)
    with FeedbackStore(Path(folder, "admin.db"), seed=0) as store:
        judge(store)
        take(store, IMAGES / "admin.png", {"viewport": {"width": 1280, "height": 1000}}, role="admin")
    shutil.rmtree(folder)


def judge(store: FeedbackStore) -> None:
    """Fill a store with pairs that six simulated annotators have judged, one of them at random."""
    reward = get_reward("tiny-reward")
    texts = [" is a wonderful film.", " is a dull film.", " moved me to tears.", " bored me to tears."]
    pairs = [(first, second) for first in texts for second in texts if first < second] * 10
    store.add_items([NewItem("pairwise", f"Film {i}", pair, overlap=4) for i, pair in enumerate(pairs)])
    annotate(store, simulated_crowd(reward, 6, random_share=1 / 6, seed=1, name="annotator"))


def take(store: FeedbackStore, path: Path, options: dict[str, Any], role: str = "annotator") -> None:
    """Serve a store, sign somebody in, and save what their page looks like."""
    store.register(store.invite(role), "ada", "no password")
    token = store.begin_session("ada", store.password_hash("ada"))
    payload = b64encode(json.dumps({"id": token, "name": "ada", "csrf": os.urandom(8).hex()}).encode())
    with socket.socket() as listener, sync_playwright() as playwright:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(
            uvicorn.Config(create_app(store, secret=SECRET, analyse=crowd_figures), log_level="error", lifespan="off")
        )
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(**options)
        context.add_cookies(
            [{"name": COOKIE, "value": TimestampSigner(SECRET.hex()).sign(payload).decode(), "url": url}]
        )
        page = context.new_page()
        if role == "admin":
            page.goto(f"{url}/admin")
        else:
            page.goto(f"{url}/annotate")
            page.wait_for_selector("body[data-kind=pairwise] #task[aria-busy=false]")
        page.wait_for_timeout(300)  # for the opacity that fades in
        page.screenshot(path=path)
        browser.close()
        server.should_exit = True
        thread.join(10)
    print(path)


if __name__ == "__main__":
    main()
