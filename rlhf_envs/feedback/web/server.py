"""Run the web app with uvicorn."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from pathlib import Path

import uvicorn

from ..store.store import FeedbackStore
from .app import create_app

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

    If no admin has an account yet, an invitation for one is printed.

    Args:
        store_url: a path for SQLite, or "postgresql://...".
        host: the address to listen on. With "0.0.0.0" a phone in the same network can connect.
        port: the port. 0 takes a free one.
        secret: signs cookies. By default it is RLHF_FEEDBACK_SECRET, else the content of the file `<store>.secret`,
            which is made (mode 0600) if it is missing. With PostgreSQL and no variable a new secret is drawn, and a
            restart signs everyone out.
        secure_cookies: send cookies over HTTPS only.
        log_level: uvicorn's log level.

    Raises:
        StoreError: the store cannot be opened.
        ValueError: the secret is shorter than 16 bytes.
    """
    with FeedbackStore(store_url) as store:
        app = create_app(store, secret=secret or find_secret(store_url), secure_cookies=secure_cookies)
        # Each request holds a thread. A database write takes milliseconds, so the default pool of 40 is enough.
        config = uvicorn.Config(app, host=host, port=port, log_level=log_level, server_header=False, lifespan="off")
        listener = config.bind_socket()
        here = f"http://{'localhost' if host in ('0.0.0.0', '::', '127.0.0.1') else host}:{listener.getsockname()[1]}"
        print(f"annotation app on {here} ({store.url}); stop it with Ctrl-C", flush=True)
        if not any(person.role == "admin" and store.password_hash(person.name) for person in store.annotators()):
            print(f"there is no admin yet; make the account here: {here}/invite/{store.invite('admin')}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once it has shut down
            uvicorn.Server(config).run([listener])


def find_secret(store_url: str | Path) -> bytes:
    """Return the secret that signs cookies: from the environment, the file next to a SQLite store, or a new one."""
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
        with contextlib.suppress(FileExistsError):  # another server was faster, and its secret counts
            os.link(draft, path)
        draft.unlink()
    return path.read_bytes()
