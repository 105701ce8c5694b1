"""Run the web app with uvicorn."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import uvicorn

from ...privacy import masked_logs
from ..forecasts import Forecaster
from ..store.store import FeedbackStore
from .admin.figures import Analyse
from .app import create_app
from .connections import ACCEPTED_AT_ONCE, LimitedProtocol, most_connections
from .listening import keep_loaded, listen, page_addresses
from .projects import create_projects
from .webhooks import delivering

__all__ = ["serve"]

_SECRET_VARIABLE = "RLHF_FEEDBACK_SECRET"
_WAITING = 1024  # connections that the system keeps until they are accepted

logger = logging.getLogger(__name__)


def serve(
    store_url: str | Path | Mapping[str, str | Path] = "feedback.db",
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    url: str | None = None,
    proxies: Sequence[str] = (),
    secret: bytes | None = None,
    secure_cookies: bool = False,
    analyse: Analyse | None = None,
    forecaster: Forecaster | None = None,
    log_level: str = "warning",
) -> None:
    """Serve the annotation app until SIGINT or SIGTERM.

    If no admin has an account yet, an invitation for one is printed. If a project masks private data, it is masked in
    the logs too.

    Args:
        store_url: a path for SQLite, or "postgresql://..."; or several projects, {name: store}, each below /name.
        host: the address to listen on. With "0.0.0.0" a phone in the same network can connect.
        port: the port. 0 takes a free one.
        url: the address under which people reach the app, which stands in invitations. By default the address here; if
            the host stands for all addresses, the one towards the network. The store keeps it, so that
            `rlhf feedback invite` prints links with it.
        proxies: addresses or networks ("10.0.0.0/8") of proxies in front of the app. Only what they say of a client's
            address (X-Forwarded-For) is believed, so the limit on sign-ins goes by it.
        secret: signs cookies. By default it is RLHF_FEEDBACK_SECRET, else the content of the file `<store>.secret`,
            which is made (mode 0600) if it is missing. With PostgreSQL and no variable a new secret is drawn, and a
            restart signs everyone out.
        secure_cookies: send cookies over HTTPS only. On by itself if `url` begins with "https://".
        analyse: estimates annotators' ability and items' difficulty for the admin's pages:
            `rlhf_envs.preferences.crowd.crowd_figures`.
        forecaster: tells, when an admin asks, how many labels a reward model's accuracy takes:
            `rlhf_envs.preferences.forecasting.forecast_labels`.
        log_level: uvicorn's log level.

    Raises:
        StoreError: the store cannot be opened.
        ValueError: the secret is shorter than 16 bytes, a proxy is no address, or the port is taken.
    """
    several = isinstance(store_url, Mapping)
    stores = dict(store_url) if isinstance(store_url, Mapping) else {"": store_url}
    config = _configure(host, port, proxies, log_level)
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(contextlib.closing(listen(host, port)))  # first: a failure makes no store
        open_stores = {name: opened.enter_context(FeedbackStore(place)) for name, place in stores.items()}
        addresses = page_addresses(host, listener.getsockname()[1])
        here = (url or addresses[0]).rstrip("/")
        apps = {
            project: create_app(
                store,
                secret=secret or find_secret(stores[project]),
                secure_cookies=secure_cookies or here.startswith("https://"),
                url=f"{here}/{project}".rstrip("/"),
                project=project,
                analyse=analyse,
                forecaster=forecaster,
            )
            for project, store in open_stores.items()
        }
        if any(store.settings.mask_private for store in open_stores.values()):
            opened.enter_context(masked_logs())
        config.app = create_projects(apps) if several else apps[""]
        places = f", {len(apps)} projects" if several else f" ({open_stores[''].url})"
        lines = [f"annotation app on {here}{places}; stop it with Ctrl-C"]
        if others := [address for address in addresses if address != here and len(addresses) > 1]:
            lines.append(f"also on {', '.join(others)}")
        for project, app in apps.items():
            open_stores[project].remember_address(app.state.url)
            lines += _greeting(project, open_stores[project], app.state.url)
        opened.enter_context(delivering(*open_stores.values()))
        keep_loaded()
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once it has shut down
            _Server(config, "\n".join(lines)).run([listener])


def _configure(host: str, port: int, proxies: Sequence[str], log_level: str) -> uvicorn.Config:
    """Return how uvicorn runs. The app is set later.

    Raises:
        ValueError: a proxy is no address.
    """
    for proxy in proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError as error:
            raise ValueError(f"proxy {proxy!r}: give an address, such as 127.0.0.1, or a network: {error}") from None
    # Each request holds a thread. A database write takes milliseconds, so the default pool of 40 is enough.
    return uvicorn.Config(
        "set later",
        host=host,
        port=port,
        log_level=log_level,
        server_header=False,
        lifespan="off",
        ws="none",
        loop="asyncio",  # uvloop has no limit on what it accepts at once
        http=type("Protocol", (LimitedProtocol,), {"most": most_connections()}),
        backlog=ACCEPTED_AT_ONCE,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
    )


def _greeting(project: str, store: FeedbackStore, address: str) -> list[str]:
    """Return what to say of a project when the server starts: where it is, and how its first admin gets in."""
    lines = [f"{project}: {address} ({store.url})"] if project else []
    if not any(person.role == "admin" and store.password_hash(person.name) for person in store.annotators()):
        whose = f" of {project}" if project else ""
        lines.append(f"there is no admin{whose} yet; make the account here: {address}/invite/{store.invite('admin')}")
    return lines


class _Server(uvicorn.Server):
    """Say that the server is there once it listens."""

    def __init__(self, config: uvicorn.Config, greeting: str) -> None:
        super().__init__(config)
        self._greeting = greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_WAITING)  # else only ACCEPTED_AT_ONCE could wait to be accepted
        print(self._greeting, flush=True)


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
