#!/bin/sh
# limits 5.8.0: nearly every hit on a limit in memory starts a thread, also with the storage for asyncio.
#
# Expected: a hit counts, and old entries are dropped at times, by one timer or by the hits themselves.
# What happens: the sync storage starts a `threading.Timer` of 10 ms unless one is alive, so hits that are further apart
# start a thread each. An event loop waits for that thread to start, and for the lock under which it looks for old entries.
# `limits.aio` starts a task instead, which calls `asyncio.to_thread` once per key.
# Source: limits/storage/memory.py and limits/aio/storage/memory.py, `__schedule_expiry` and `__expire_events`.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check limits==5.8.0
cat >hits.py <<'PY'
import asyncio
import importlib.metadata
import threading
import time

import limits.aio.storage
import limits.aio.strategies
import limits.storage
import limits.strategies

HITS = 50
LIMIT = limits.parse("100000/minute")
print("limits", importlib.metadata.version("limits"))
started = []
start = threading.Thread.start
threading.Thread.start = lambda thread: (started.append(thread), start(thread))[1]

window = limits.strategies.MovingWindowRateLimiter(limits.storage.MemoryStorage())
started.clear()
for _ in range(HITS):
    time.sleep(0.02)
    window.hit(LIMIT, "a")
print(f"{HITS} hits, 20 ms apart: {len(started)} threads started")
assert len(started) > HITS / 2


async def count():
    calls = []
    to_thread = asyncio.to_thread
    asyncio.to_thread = lambda *args: (calls.append(args), to_thread(*args))[1]
    window = limits.aio.strategies.MovingWindowRateLimiter(limits.aio.storage.MemoryStorage())
    for _ in range(HITS):
        await asyncio.sleep(0.02)
        await window.hit(LIMIT, "a")
    await asyncio.sleep(0.1)
    print(f"the same with limits.aio: {len(calls)} calls in a thread")
    assert len(calls) > HITS / 2


asyncio.run(count())
PY
venv/bin/python hits.py
