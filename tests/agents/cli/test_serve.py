"""`rlhf serve`: keys are given out and revoked, and mistakes are said before anything is loaded."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agents.cli import app
from agents.serving.keys import KeyFile


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rlhf(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "400", "NO_COLOR": "1"})


def test_a_key_is_printed_once_listed_and_revoked() -> None:
    made = rlhf(
        "serve", "keys", "add", "ann", "--scope", "completions", "--days", "3", "--per-minute", "9", "--consent"
    )
    secret = made.stdout.strip()
    assert made.exit_code == 0 and "of ann, for completions" in made.stderr and secret not in made.stderr
    key = KeyFile("serve-keys.json").find(secret)
    assert key is not None and key.per_minute == 9 and key.consent and key.expires is not None
    listed = rlhf("serve", "keys", "list").stdout
    assert key.id in listed and "until" in listed and secret not in listed
    assert rlhf("serve", "keys", "revoke", key.id).stdout == f"revoked 1 key of {key.id}\n"
    assert "revoked" in rlhf("serve", "keys", "list").stdout
    assert KeyFile("serve-keys.json").find(secret) is None


def test_a_key_that_is_out_of_date_is_shown_so_and_opens_no_server() -> None:
    KeyFile("serve-keys.json").add("ann", days=1e-9)
    state = rlhf("serve", "keys", "list").stdout
    assert "expired 20" in state and "until" not in state
    assert "no key in serve-keys.json works any more: make one" in rlhf("serve", "tiny").stderr
    KeyFile("serve-keys.json").add("bob", days=1)
    assert "works until 20" in rlhf("serve", "keys", "list").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tiny"], "there is no key in serve-keys.json: make one, rlhf serve keys add NAME"),
        (["tiny", "--no-keys", "--host", "0.0.0.0"], "everybody in the network could use the model"),
        (["tiny", "--no-keys", "--review-share", "0.1"], "--review-share 0.1 needs a --store"),
        (["tiny", "--no-keys", "--review-share", "2"], "--review-share"),
        (["tiny", "--prot", "1"], "no such option: --prot"),
        (["keys", "add", "a b"], "name 'a b': expected"),
        (["keys", "add", "ann", "--scope", "root"], "--scope: Input should be 'completions'"),
        (["keys", "revoke", "bob"], "there is no key 'bob'"),
    ],
)
def test_mistakes_are_said(words: list[str], said: str) -> None:
    found = rlhf("serve", *words)
    assert found.exit_code == 2 and said in found.stderr, found.output


def test_a_taken_port_is_said_before_a_store_is_made() -> None:
    pytest.importorskip("prometheus_client", reason="the gateway needs the extra serve")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        found = rlhf("serve", "tiny", "--no-keys", "--store", "feedback.db", "--port", port)
    assert found.exit_code == 2 and f"--port {port} is taken: another program listens there" in found.stderr
    assert not [*Path().iterdir()]


@pytest.mark.parametrize("package", ["sqlalchemy", "prometheus_client"])
def test_without_a_package_it_names_the_extra_that_is_enough(package: str) -> None:
    """The feedback store, which needs SQLAlchemy, names the extra web by itself."""
    code = (
        f"import sys; sys.modules[{package!r}] = None; from agents.cli import app; "
        "app(['serve', 'run', 'tiny', '--no-keys'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and f"needs {package}: pip install 'rlhf-envs[serve]'" in done.stderr, done.stderr


def test_masks_without_their_extra_are_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("prometheus_client", reason="the gateway needs the extra serve")
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    found = rlhf("serve", "no-such-model", "--no-keys", "--mask-private")
    assert found.exit_code == 2 and "masking needs phonenumbers: pip install 'rlhf-envs[privacy]'" in found.stderr


def test_the_help_of_the_verb_is_that_of_serving() -> None:
    assert "--upstream" in rlhf("serve", "--help").stdout
    assert "revoke" in rlhf("serve", "keys", "--help").stdout
