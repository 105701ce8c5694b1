"""Tell who is asking: passwords, sessions, CSRF tokens, and a limit on sign-ins.

The session is Starlette's signed cookie. The server keeps nothing, so annotators stay signed in when it restarts. The
limit on sign-ins is kept in memory and begins anew with a restart.
"""

from __future__ import annotations

import secrets
import threading
import time
import unicodedata
from functools import cached_property
from typing import Annotated, Any, cast

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.middleware.sessions import SessionMiddleware

from ..records import Annotator
from ..store.store import FeedbackStore

__all__ = [
    "Admin",
    "CsrfChecked",
    "Gate",
    "Passwords",
    "SignedIn",
    "Store",
    "add_sessions",
    "begin_session",
    "clean_name",
    "csrf_matches",
    "csrf_token",
    "gate_of",
]

COOKIE = "rlhf_feedback"
SESSION_SECONDS = 14 * 24 * 3600
MIN_PASSWORD, MAX_PASSWORD = 8, 1000
WINDOW = 300  # seconds over which tries to sign in are counted
PER_NAME = RateLimitItemPerSecond(5, WINDOW)
PER_ADDRESS = RateLimitItemPerSecond(60, WINDOW)  # many annotators may share an office's address
_NAME_MARKS = " .@+-_'"


class Passwords:
    """Hash passwords with Argon2id: 19 MiB, 2 passes, 1 lane, the second choice of the OWASP cheat sheet."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._at_once = threading.BoundedSemaphore(4)  # so that a flood of sign-ins does not fill the memory

    @cached_property
    def _nobody(self) -> str:
        return self._hasher.hash(secrets.token_hex(16))

    def hash(self, password: str) -> str:
        """Return the hash of a password."""
        with self._at_once:
            return self._hasher.hash(password)

    def verify(self, password: str, password_hash: str | None) -> bool:
        """Return whether a password fits a hash. Without a hash the answer is False and takes as long."""
        with self._at_once:
            try:
                return self._hasher.verify(password_hash or self._nobody, password) and password_hash is not None
            except (Argon2Error, InvalidHashError):
                return False


def add_sessions(app: FastAPI, secret: bytes, secure: bool) -> None:
    """Give every request a session: `csrf`, the token of its forms and calls, and `name`, if someone is signed in.

    Raises:
        ValueError: the secret is shorter than 16 bytes.
    """
    if len(secret) < 16:
        raise ValueError(f"the secret has {len(secret)} bytes: use at least 16 random ones, secrets.token_bytes(32)")
    app.add_middleware(
        SessionMiddleware,
        secret_key=secret.hex(),
        session_cookie=COOKIE,
        max_age=SESSION_SECONDS,
        same_site="lax",  # not strict: whoever opens an invitation from a mail program is still signed in
        https_only=secure,
    )


def begin_session(request: Request, name: str) -> None:
    """Sign someone in with a new session, so that a session planted before the sign-in is worth nothing."""
    request.session.clear()
    request.session.update(name=name, csrf=secrets.token_urlsafe(16))


def csrf_token(request: Request) -> str:
    """Return the CSRF token of the session. A request without a session gets one."""
    return cast(str, request.session.setdefault("csrf", secrets.token_urlsafe(16)))


def csrf_matches(request: Request, token: str) -> bool:
    """Return whether a token is the session's."""
    known = request.session.get("csrf", "")
    return bool(known) and secrets.compare_digest(known.encode(), token.encode("utf-8", "replace"))


class Gate:
    """Sign people in and up, with a limit on the tries per name and per address."""

    def __init__(self, store: FeedbackStore) -> None:
        self.store = store
        self.passwords = Passwords()
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def sign_in(self, request: Request, name: str, password: str) -> str:
        """Return the annotator's name. Raise 401 for a wrong name or password alike, 429 after too many tries."""
        name = unicodedata.normalize("NFKC", name).strip()
        key = self._admit(request, name)
        known = self.store.password_hash(name) if _is_name(name) else None
        if not self.passwords.verify(password[: MAX_PASSWORD + 1], known):
            raise HTTPException(401, "wrong name or password")
        self._limiter.clear(PER_NAME, *key)
        return name

    def sign_up(self, request: Request, token: str, name: str, password: str) -> Annotator:
        """Use an invitation. Raise 422 for a bad name or password, 403 for a bad invitation, 409 for a name taken."""
        name = clean_name(name)
        if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise HTTPException(422, f"password: {MIN_PASSWORD} to {MAX_PASSWORD} characters, got {len(password)}")
        key = self._admit(request, name)
        try:
            self.store.check_invitation(token)  # first, so that only who is invited may learn which names there are
            if any(annotator.name == name for annotator in self.store.annotators()):
                raise HTTPException(409, f"the name {name!r} is taken: choose another")
            annotator = self.store.register(token, name, self.passwords.hash(password))
        except (ValueError, LookupError, PermissionError) as error:
            raise HTTPException(403, f"this invitation does not work: {error}") from error
        self._limiter.clear(PER_NAME, *key)
        return annotator

    def _admit(self, request: Request, name: str) -> tuple[str, str]:
        """Count a try and return its (address, name). Raise 429 if there were too many."""
        address = request.client.host if request.client else "?"
        key = address, name.casefold()[:200]
        for allowed in (self._limiter.test, self._limiter.hit):  # a try that one limit refuses counts for neither
            for limit, who in ((PER_ADDRESS, key[:1]), (PER_NAME, key)):
                if not allowed(limit, *who):
                    wait = max(0.0, self._limiter.get_window_stats(limit, *who).reset_time - time.time())
                    headers = {"Retry-After": str(int(wait) + 1)}
                    raise HTTPException(429, f"too many tries: wait {wait:.0f} seconds", headers=headers)
        return key


def _is_name(name: str) -> bool:
    return 0 < len(name) <= 64 and all(c.isalnum() or c in _NAME_MARKS or unicodedata.combining(c) for c in name)


def clean_name(name: str) -> str:
    """Return the name in its one spelling (NFKC, trimmed). Raise 422 if it could be mistaken for another."""
    name = unicodedata.normalize("NFKC", name).strip()
    if not _is_name(name):
        raise HTTPException(422, f"name: 1 to 64 letters, digits, spaces or {_NAME_MARKS.strip()}, got {name[:80]!r}")
    return name


def gate_of(request: Request) -> Gate:
    """Return the app's gate, as a dependency."""
    return cast(Gate, request.app.state.gate)


def _store(request: Request) -> FeedbackStore:
    return cast(FeedbackStore, request.app.state.store)


Store = Annotated[FeedbackStore, Depends(_store)]


def _annotator(request: Request, store: Store) -> Annotator:
    name: Any = request.session.get("name")
    found = next((annotator for annotator in store.annotators() if annotator.name == name), None)
    if found is None:  # also where the cookie belongs to another store
        raise HTTPException(401, "sign in first")
    return found


SignedIn = Annotated[Annotator, Depends(_annotator)]


def _admin(annotator: SignedIn) -> Annotator:
    if annotator.role != "admin":
        raise HTTPException(403, "only an admin may do this")
    return annotator


Admin = Annotated[Annotator, Depends(_admin)]


def _check_csrf(
    request: Request,
    x_csrf_token: Annotated[str, Header(description="`csrf` of /api/session", max_length=200)] = "",
) -> None:
    if "name" not in request.session:
        raise HTTPException(401, "sign in first")
    if not csrf_matches(request, x_csrf_token):
        raise HTTPException(403, "X-CSRF-Token is missing or belongs to another session: take `csrf` of /api/session")


CsrfChecked = Depends(_check_csrf)
