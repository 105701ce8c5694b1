"""Where the page is served: addresses, a port that is taken, and a real nginx in front of it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.feedback.web.app import MAX_BODY
from rlhf_envs.feedback.web.listening import listen, page_addresses
from rlhf_envs.feedback.web.server import serve

ROOT = Path(__file__).parents[4]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_port_that_is_taken_is_named_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port={port} is taken: another program listens .* 0 takes a free"):
            serve(tmp_path / "feedback.db", port=port)
    assert not [*tmp_path.iterdir()], "no store is made"


@pytest.mark.parametrize("host", ["192.0.2.7", "no-such-host.invalid"])
def test_a_host_of_another_machine_is_named(host: str) -> None:
    with pytest.raises(ValueError, match=f"host='{host}' is no .*: give 127.0.0.1, or 0.0.0.0 for all"):
        listen(host, 0)


def test_every_address_of_the_machine_reaches_the_page_that_listens_on_all() -> None:
    code = """
import socket
from rlhf_envs.feedback.web.listening import listen, page_addresses
listener = listen("0.0.0.0", 0)
listener.listen()
for address in page_addresses("0.0.0.0", listener.getsockname()[1]):
    host, _, port = address.removeprefix("http://").rpartition(":")
    socket.create_connection((host, int(port)), 5).close()
    print(host)
"""  # in a process of its own: here no socket may even be told of another machine
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "localhost" and "127.0.0.1" not in done.stdout


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "http://localhost:80"), ("10.1.2.3", "http://10.1.2.3:80"), ("::1", "http://[::1]:80")],
)
def test_a_host_is_its_own_address(host: str, address: str) -> None:
    assert page_addresses(host, 80) == [address]


def test_the_address_for_other_machines_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    import rlhf_envs.feedback.web.listening as listening

    monkeypatch.setattr(listening, "_own", lambda family, elsewhere: {"1": "10.0.0.5", "2": "fe80::1"}[elsewhere[0]])
    monkeypatch.setattr(listening.socket, "getaddrinfo", lambda *args, **options: [(2, 1, 6, "", ("127.0.1.1", 80))])
    assert page_addresses("0.0.0.0", 80) == ["http://10.0.0.5:80", "http://localhost:80"]


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[int, list[str]]]:
    """`rlhf feedback serve` in a process of its own, as behind nginx; its port and what it has printed."""
    port, printed = free_port(), []
    command = [sys.executable, "-m", "agents.cli", "feedback", "serve", "--port", str(port), "--proxy", "127.0.0.1"]
    command += ["--url", "https://label.example.org", "--store", str(tmp_path / "feedback.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        printed += [process.stdout.readline(), process.stdout.readline()]
        yield port, printed
        process.terminate()


@pytest.fixture
def nginx(tmp_path: Path, page: tuple[int, list[str]]) -> Iterator[int]:
    """Debian's nginx with deploy/nginx.conf, without TLS; its port."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    port = free_port()
    ours = (ROOT / "deploy" / "nginx.conf").read_text()
    ours = re.sub(r"^ *ssl_certificate.*\n", "", ours, flags=re.M).replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    assert "http://127.0.0.1:8000" in ours
    ours = ours.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{page[0]}")
    paths = "".join(f"{name}_temp_path {tmp_path}/{name}; " for name in ("proxy", "fastcgi", "uwsgi", "scgi"))
    folders = f"client_body_temp_path {tmp_path}/body; {paths}access_log off;"
    main = f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}} http {{ {folders} {ours} }}"
    (tmp_path / "nginx.conf").write_text(main)
    process = subprocess.Popen([program, "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)])
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None, (tmp_path / "error.log").read_text()
        time.sleep(0.1)
    yield port
    process.terminate()
    process.wait(20)


@pytest.fixture
def ask(nginx: int) -> Callable[..., tuple[int, dict[str, str], bytes]]:
    """Send a request through nginx from an address of loopback's network; return status, headers, body."""

    def ask(
        method: str, path: str, body: str | bytes = "", *, address: str = "127.0.0.2", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", nginx, timeout=30, source_address=(address, 0))
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"content-type": "application/json", **sent})
        answer = connection.getresponse()
        found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        connection.close()
        return found

    return ask


def test_behind_nginx_links_cookies_and_pages_are_right(
    page: tuple[int, list[str]], ask: Callable[..., tuple[int, dict[str, str], bytes]], tmp_path: Path
) -> None:
    assert re.search(r"https://label\.example\.org/invite/\S+", page[1][1]), page[1]
    status, headers, body = ask("GET", "/login")
    assert status == 200 and b"<form" in body
    assert "secure" in headers["set-cookie"].lower()
    assert ask("GET", "/static/annotate.js")[0] == 200
    status, headers, _ = ask("GET", "/annotate")
    assert (status, headers["location"]) in [(303, "/login"), (303, "http://label.example.org/login")]
    with FeedbackStore(tmp_path / "feedback.db") as store:
        assert store.served_at == "https://label.example.org"


def test_behind_nginx_the_limit_on_sign_ins_goes_by_the_client_whatever_it_says(
    ask: Callable[..., tuple[int, dict[str, str], bytes]],
) -> None:
    wrong = json.dumps({"name": "ada", "password": "wrong"})
    tries = [ask("POST", "/api/login", wrong, X_Forwarded_For=f"198.51.100.{i}")[0] for i in range(7)]
    assert tries == [401] * 5 + [429] * 2
    assert ask("POST", "/api/login", wrong, address="127.0.0.3")[0] == 401


def test_behind_nginx_bodies_are_limited_as_without_it(ask: Callable[..., tuple[int, dict[str, str], bytes]]) -> None:
    big = b'{"name": "ada", "password": "' + b"x" * 6_000_000 + b'"}'
    assert ask("POST", "/api/login", big)[0] != 413
    assert ask("POST", "/api/login", b" " * (MAX_BODY + 1000))[0] == 413
