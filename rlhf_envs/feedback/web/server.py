"""Runs the web app with uvicorn."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from pathlib import Path

import uvicorn

from rlhf_envs.feedback.store.store import FeedbackStore
from rlhf_envs.feedback.web.app import create_app

__all__ = ["serve"]

_SECRET_VARIABLE = "RLHF_FEEDBACK_SECRET"

logger = logging.getLogger(__name__)


def serve(
    store_url: str | Path = "feedback.db",
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    secret: bytes | None = None,
    secure_cookies: bool = False,
    log_level: str = "warning",
) -> None:
    """Serve the annotation app until SIGINT or SIGTERM.

    Where no admin has an account yet, it prints an invitation for one.

    Args:
        store_url: a path for SQLite, or "postgresql://...".
        host: the address to listen on; "0.0.0.0" for a phone in the same network.
        port: 0 takes a free one.
        secret: signs cookies. By default RLHF_FEEDBACK_SECRET, else the file `<store>.secret`, which is made (mode
            0600) where it is missing; with PostgreSQL and no variable a new one is drawn, and a restart signs all out.
        secure_cookies: send cookies over HTTPS only.
        log_level: uvicorn's.

    Raises:
        StoreError: the store cannot be opened.
        ValueError: the secret is shorter than 16 bytes.
    """
    with FeedbackStore(store_url) as store:
        app = create_app(store, secret=secret or find_secret(store_url), secure_cookies=secure_cookies)
        # Threads hold requests; a database write is milliseconds, so the default pool of 40 does.
        config = uvicorn.Config(app, host=host, port=port, log_level=log_level, server_header=False, lifespan="off")
        listener = config.bind_socket()
        here = f"http://{'localhost' if host in ('0.0.0.0', '::', '127.0.0.1') else host}:{listener.getsockname()[1]}"
        print(f"annotation app on {here} ({store.url}); Ctrl-C ends it", flush=True)
        if not any(person.role == "admin" and store.password_hash(person.name) for person in store.annotators()):
            print(f"no admin yet, make the account here: {here}/invite/{store.invite('admin')}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once it has shut down
            uvicorn.Server(config).run([listener])


def find_secret(store_url: str | Path) -> bytes:
    """Return the secret that signs cookies: from the environment, from the file beside a SQLite store, or a new one."""
    if _SECRET_VARIABLE in os.environ:
        return os.environ[_SECRET_VARIABLE].encode()
    text = str(store_url)
    if "://" in text and not text.startswith("sqlite:///"):
        logger.warning("%s is not set: a restart of the server will sign everyone out", _SECRET_VARIABLE)
        return secrets.token_bytes(32)
    path = Path(text.removeprefix("sqlite:///") + ".secret")
    if not path.exists():
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another server was faster: its secret holds
            os.link(draft, path)
        draft.unlink()
    return path.read_bytes()
