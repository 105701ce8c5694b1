#!/bin/sh
# openenv 0.10.0: after a server was restarted, a client's next step goes into a new session that was never reset.
#
# Expected: `step` raises, because the episode that it belongs to is gone with its session.
# What happens: the client connects again by itself and sends the step. The server has a fresh environment for the new
# session, without a reset, and its answer, reward and all, comes back as that of the episode under way.
# Source: openenv/core/env_client.py, EnvClient._send calls _ensure_connected, which connects anew.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check openenv==0.10.0
cat > counting.py <<'PY'
import sys

import uvicorn
from openenv.core.env_server import Environment, create_fastapi_app
from openenv.core.env_server.types import Action, Observation, State


class Add(Action):
    number: int


class Sum(Observation):
    total: int


class Counting(Environment):
    total = 0

    def reset(self, seed=None, episode_id=None, **kwargs):
        self.total = 1000  # an episode begins at 1000
        return Sum(total=self.total)

    def step(self, action, timeout_s=None, **kwargs):
        self.total += action.number
        return Sum(total=self.total, reward=float(self.total))

    @property
    def state(self):
        return State()


uvicorn.run(create_fastapi_app(Counting, Add, Sum), port=int(sys.argv[1]), log_level="error")
PY
cat > finding.py <<'PY'
import socket
import subprocess
import sys
import time
from importlib.metadata import version

from openenv.core import GenericEnvClient

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]


def serve():
    process = subprocess.Popen([sys.executable, "counting.py", str(port)])
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.1)
    raise SystemExit("the server did not start")


print("openenv", version("openenv"))
server = serve()
client = GenericEnvClient(base_url=f"http://127.0.0.1:{port}").sync()
begun = client.reset().observation["total"]
before = client.step({"number": 1}).observation["total"]
server.kill()
server.wait()
server = serve()
time.sleep(1)
after = client.step({"number": 1})
server.kill()
print(f"reset: {begun}, step: {before}; the server is restarted; step: {after.observation['total']}, reward {after.reward}")
assert (begun, before) == (1000, 1001)
assert after.observation["total"] == 1 and after.reward == 1.0
PY
venv/bin/python finding.py
