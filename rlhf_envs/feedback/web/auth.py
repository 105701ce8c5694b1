"""Who is asking: passwords, signed cookies, CSRF tokens, throttling of sign-ins.

The session is a signed cookie, not a row: the server keeps nothing, and an annotator stays signed in when it restarts.
"""

from __future__ import annotations

import secrets
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, cast

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from fastapi import Depends, Header, HTTPException, Request, Response
from itsdangerous import BadSignature, Signer, URLSafeTimedSerializer

from rlhf_envs.feedback.records import Annotator
from rlhf_envs.feedback.store.store import FeedbackStore

__all__ = ["Admin", "CsrfChecked", "Passwords", "Session", "Sessions", "SignedIn", "Throttle", "clean_name"]

COOKIE = "rlhf_feedback"
SESSION_SECONDS = 14 * 24 * 3600
MIN_PASSWORD, MAX_PASSWORD = 8, 1000
_NAME_MARKS = " .@+-_'"


class Passwords:
    """Argon2id, with the OWASP cheat sheet's second choice of parameters (19 MiB, 2 passes, 1 lane)."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._at_once = threading.BoundedSemaphore(4)  # a flood of sign-ins must not fill the memory

    @cached_property
    def _nobody(self) -> str:
        return self._hasher.hash(secrets.token_hex(16))

    def hash(self, password: str) -> str:
        with self._at_once:
            return self._hasher.hash(password)

    def verify(self, password: str, password_hash: str | None) -> bool:
        """Compare; without a hash (no such annotator) it takes as long and is False."""
        with self._at_once:
            try:
                return self._hasher.verify(password_hash or self._nobody, password) and password_hash is not None
            except (Argon2Error, InvalidHashError):
                return False


@dataclass(frozen=True)
class Session:
    """What a signed cookie says: its own random id, to which CSRF tokens are bound, and who signed in."""

    id: str
    name: str | None = None

    @classmethod
    def fresh(cls, name: str | None = None) -> Session:
        """A session with an id of its own; who signs in gets one, so that none can be planted before."""
        return cls(secrets.token_urlsafe(16), name)


class Sessions:
    """Reads and writes the session cookie."""

    def __init__(self, secret: bytes, secure: bool) -> None:
        if len(secret) < 16:
            raise ValueError(
                f"the secret has {len(secret)} bytes: take at least 16 random ones, secrets.token_bytes(32)"
            )
        self._serializer = URLSafeTimedSerializer(secret, salt="session")
        self._csrf = Signer(secret, salt="csrf")
        self._secure = secure

    def read(self, request: Request) -> Session | None:
        """Return the session, None where there is none, it is too old or it was not signed here."""
        try:
            data = self._serializer.loads(request.cookies.get(COOKIE, ""), max_age=SESSION_SECONDS)
        except BadSignature:
            return None
        return Session(data["id"], data["name"])

    def sign(self, session: Session) -> str:
        """The cookie's value."""
        value = self._serializer.dumps({"id": session.id, "name": session.name})
        return value if isinstance(value, str) else value.decode()

    def keep(self, response: Response, session: Session) -> None:
        """Put a session's cookie into the response."""
        response.set_cookie(
            COOKIE,
            self.sign(session),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="lax",  # not strict: an invitation opened from a mail program should find who is signed in
            secure=self._secure,
        )

    def end(self, response: Response) -> None:
        response.delete_cookie(COOKIE, httponly=True, samesite="lax", secure=self._secure)

    def csrf_token(self, session: Session) -> str:
        return self._csrf.get_signature(session.id).decode()

    def csrf_matches(self, session: Session, token: str) -> bool:
        return self._csrf.verify_signature(session.id, token.encode("utf-8", "replace"))


class Throttle:
    """Allows `limit` tries a key within `window` seconds; kept in memory, so a restart forgets them."""

    def __init__(self, limit: int, window: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit, self.window, self._clock = limit, window, clock
        self._tries: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def attempt(self, key: str) -> float:
        """Count a try; return 0, or how many seconds to wait (the try is refused and not counted)."""
        now = self._clock()
        with self._lock:
            if len(self._tries) > 10_000:
                self._tries = {k: t for k, t in self._tries.items() if t and t[-1] > now - self.window}
            tries = self._tries.setdefault(key, deque())
            while tries and tries[0] <= now - self.window:
                tries.popleft()
            if len(tries) >= self.limit:
                return tries[0] + self.window - now
            tries.append(now)
            return 0.0

    def forget(self, key: str) -> None:
        """Clear a key, after a right password."""
        with self._lock:
            self._tries.pop(key, None)


class Gate:
    """The sign-in and the sign-up, throttled."""

    def __init__(self, store: FeedbackStore) -> None:
        self.store = store
        self.passwords = Passwords()
        self._per_name = Throttle(limit=5)
        self._per_address = Throttle(limit=60)  # many annotators may share an office's address

    def _admit(self, request: Request, name: str) -> str:
        address = request.client.host if request.client else "?"
        key = f"{address} {name.casefold()[:200]}"
        wait = self._per_name.attempt(key) or self._per_address.attempt(address)
        if wait:
            raise HTTPException(
                429, f"too many tries: wait {wait:.0f} seconds", headers={"Retry-After": str(int(wait) + 1)}
            )
        return key

    def sign_in(self, request: Request, name: str, password: str) -> str:
        """Return the annotator's name; raise 401 for a wrong name or password alike, 429 after too many tries."""
        name = unicodedata.normalize("NFKC", name).strip()
        key = self._admit(request, name)
        known = self.store.password_hash(name) if _is_name(name) else None
        if not self.passwords.verify(password[: MAX_PASSWORD + 1], known):
            raise HTTPException(401, "wrong name or password")
        self._per_name.forget(key)
        return name

    def sign_up(self, request: Request, token: str, name: str, password: str) -> Annotator:
        """Use an invitation; raise 422 for a bad name or password, 403 for a bad invitation, 409 for a name taken."""
        name = clean_name(name)
        if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise HTTPException(422, f"password: {MIN_PASSWORD} to {MAX_PASSWORD} characters, got {len(password)}")
        key = self._admit(request, name)
        try:
            self.store.check_invitation(token)  # first: only who is invited may learn which names there are
            if any(annotator.name == name for annotator in self.store.annotators()):
                raise HTTPException(409, f"the name {name!r} is taken: choose another")
            annotator = self.store.register(token, name, self.passwords.hash(password))
        except (ValueError, LookupError, PermissionError) as error:
            raise HTTPException(403, f"this invitation does not work: {error}") from error
        self._per_name.forget(key)
        return annotator


def _is_name(name: str) -> bool:
    return 0 < len(name) <= 64 and all(c.isalnum() or c in _NAME_MARKS or unicodedata.combining(c) for c in name)


def clean_name(name: str) -> str:
    """Return the name in its one spelling (NFKC, trimmed); raise 422 where it could be mistaken for another."""
    name = unicodedata.normalize("NFKC", name).strip()
    if not _is_name(name):
        raise HTTPException(422, f"name: 1 to 64 letters, digits, spaces or {_NAME_MARKS.strip()}, got {name[:80]!r}")
    return name


def _session(request: Request) -> Session:
    session = cast(Sessions, request.app.state.sessions).read(request)
    if session is None or session.name is None:
        raise HTTPException(401, "sign in first")
    return session


def _annotator(request: Request, session: Annotated[Session, Depends(_session)]) -> Annotator:
    store = cast(FeedbackStore, request.app.state.store)
    found = next((annotator for annotator in store.annotators() if annotator.name == session.name), None)
    if found is None:
        raise HTTPException(401, "sign in first")  # the cookie is of another store
    return found


def _admin(annotator: Annotated[Annotator, Depends(_annotator)]) -> Annotator:
    if annotator.role != "admin":
        raise HTTPException(403, "only an admin may do this")
    return annotator


def _check_csrf(
    request: Request,
    session: Annotated[Session, Depends(_session)],
    x_csrf_token: Annotated[str, Header(description="`csrf` of /api/session", max_length=200)] = "",
) -> None:
    if not cast(Sessions, request.app.state.sessions).csrf_matches(session, x_csrf_token):
        raise HTTPException(403, "X-CSRF-Token is missing or not of this session: take `csrf` of /api/session")


SignedIn = Annotated[Annotator, Depends(_annotator)]
Admin = Annotated[Annotator, Depends(_admin)]
CsrfChecked = Depends(_check_csrf)
