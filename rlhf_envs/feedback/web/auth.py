"""Tell who is asking: sessions, CSRF tokens, and a limit on sign-ins.

The cookie is Starlette's signed session. It holds the token of a session in the store, which ends when its owner signs
out, is switched off or gets a new password. A restart of the server ends none. The limit on sign-ins is kept in memory
and begins anew with a restart.
"""

from __future__ import annotations

import ipaddress
import secrets
import time
import unicodedata
from typing import Annotated, cast

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.middleware.sessions import SessionMiddleware

from ..records import Annotator
from ..store.store import FeedbackStore
from .passwords import MAX_PASSWORD, Passwords, SignInPool, check_password
from .words import Refusal, WrongValue

__all__ = [
    "Admin",
    "CsrfChecked",
    "Gate",
    "SignedIn",
    "Store",
    "add_sessions",
    "clean_name",
    "csrf_matches",
    "csrf_token",
    "end_session",
    "gate_of",
]

COOKIE = "rlhf_feedback"
SESSION_DAYS = 14
WINDOW = 300  # seconds over which tries to sign in are counted
PER_NAME = RateLimitItemPerSecond(5, WINDOW)  # tries at one account from one address
PER_ACCOUNT = RateLimitItemPerSecond(20, WINDOW)  # tries at one account from all addresses
PER_ADDRESS = RateLimitItemPerSecond(60, WINDOW)
# Past the limit of its address an account may still be tried so often. Else one stranger would lock out everyone who
# shares the address: an office, or all people behind a proxy that `--proxy` does not name.
PER_NAME_IN_A_CROWD = RateLimitItemPerSecond(1, WINDOW)
_NAME_MARKS = " .@+-_'"
_LONGEST_NAME = 64


def add_sessions(app: FastAPI, secret: bytes, secure: bool, cookie: str = COOKIE) -> None:
    """Give every request a session: `csrf`, the token of its forms and calls; `id` and `name` of whoever is signed in.

    Raises:
        ValueError: the secret is shorter than 16 bytes.
    """
    if len(secret) < 16:
        raise ValueError(f"the secret has {len(secret)} bytes: use at least 16 random ones, secrets.token_bytes(32)")
    app.add_middleware(
        SessionMiddleware,
        secret_key=secret.hex(),
        session_cookie=cookie,
        max_age=SESSION_DAYS * 24 * 3600,
        same_site="lax",  # not strict: whoever opens an invitation from a mail program is still signed in
        https_only=secure,
    )


def end_session(request: Request, store: FeedbackStore) -> None:
    """Sign out: end the session in the store, so that a copy of the cookie is worth nothing, and empty the cookie."""
    store.end_session(str(request.session.get("id", "")))
    request.session.clear()


def csrf_token(request: Request) -> str:
    """Return the CSRF token of the session. A request without a session gets one."""
    return cast(str, request.session.setdefault("csrf", secrets.token_urlsafe(16)))


def csrf_matches(request: Request, token: str) -> bool:
    """Return whether a token is the session's."""
    known = request.session.get("csrf", "")
    return bool(known) and secrets.compare_digest(known.encode(), token.encode("utf-8", "replace"))


class Gate:
    """Sign people in and up, with a limit on the tries per account and per address.

    Its methods hash passwords, so call them through `pool.run`.
    """

    def __init__(self, store: FeedbackStore) -> None:
        self.store = store
        self.passwords = Passwords()
        self.pool = SignInPool()
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def sign_in(self, request: Request, name: str, password: str) -> Annotator:
        """Begin a session. Raise 401 for a wrong name or password alike, 429 after too many tries."""
        name = unicodedata.normalize("NFKC", name).strip()
        key = self._admit(request, name)
        known = self.store.password_hash(name) if _is_name(name) else None
        right = self.passwords.verify(password[: MAX_PASSWORD + 1], known)
        if known is None or not right:
            raise Refusal(401, "wrong_credentials")
        self._forgive(*key)
        return self._begin_session(request, name, known)

    def sign_up(self, request: Request, token: str, name: str, password: str) -> Annotator:
        """Use an invitation, or a link that resets a password, and begin a session.

        Raise 422 for a bad name or password, 403 for a bad invitation, 409 for a name taken.
        """
        name = clean_name(name)
        try:
            check_password(password, name)
        except WrongValue as error:
            raise Refusal(422, error.key, **error.values) from None
        key = self._admit(request, name)
        try:
            known = self.store.invited_name(token)  # first, so that only who is invited may learn which names there are
        except ValueError:
            raise Refusal(403, "invitation_unknown") from None
        try:
            if known is None and any(annotator.name == name for annotator in self.store.annotators()):
                raise Refusal(409, "name_taken", name=repr(name))
            password_hash = self.passwords.hash(password)
            self.store.register(token, name, password_hash)
        except (ValueError, LookupError, PermissionError) as error:
            raise Refusal(403, "invitation_fails", reason=error) from error
        self._forgive(*key)
        return self._begin_session(request, name, password_hash)

    def admit_panelist(self, request: Request) -> None:
        """Count a visit by the link of a panel. Raise 429 if there were too many from one address."""
        address = _network(request.client.host if request.client else "?")
        if not self._limiter.hit(PER_ADDRESS, "panel", address):
            wait = max(0.0, self._limiter.get_window_stats(PER_ADDRESS, "panel", address).reset_time - time.time())
            raise Refusal(429, "too_many_tries", {"Retry-After": str(int(wait) + 1)}, n=round(wait))

    def begin_panelist_session(self, request: Request, name: str) -> Annotator:
        """Begin the session of a person of a panel, who has no password."""
        return self._begin_session(request, name, None)

    def _begin_session(self, request: Request, name: str, password_hash: str | None) -> Annotator:
        """Begin a new session, so that a session planted before the sign-in is worth nothing."""
        token = self.store.begin_session(name, password_hash, days=SESSION_DAYS)
        annotator = self.store.session_annotator(token) if token else None
        if annotator is None:  # the account was switched off while we hashed
            raise Refusal(401, "wrong_credentials")
        request.session.clear()
        request.session.update(id=token, name=name, csrf=secrets.token_urlsafe(16))
        return annotator

    def _admit(self, request: Request, name: str) -> tuple[str, str]:
        """Count a try and return its (address, name). Raise 429 if there were too many."""
        key = address, account = _network(request.client.host if request.client else "?"), name.casefold()[:200]
        is_crowded = not self._limiter.hit(PER_ADDRESS, address)
        limits = ((PER_NAME_IN_A_CROWD if is_crowded else PER_NAME, key), (PER_ACCOUNT, (account,)))
        for allowed in (self._limiter.test, self._limiter.hit):  # a try that one limit refuses counts for neither
            for limit, who in limits:
                if not allowed(limit, *who):
                    wait = max(0.0, self._limiter.get_window_stats(limit, *who).reset_time - time.time())
                    headers = {"Retry-After": str(int(wait) + 1)}
                    raise Refusal(429, "too_many_tries", headers, n=round(wait))
        return key

    def _forgive(self, address: str, account: str) -> None:
        """Forget the tries at an account whose owner has come."""
        for limit, who in ((PER_NAME, (address, account)), (PER_ACCOUNT, (account,))):
            self._limiter.clear(limit, *who)


def _network(address: str) -> str:
    """Return the address, or for IPv6 its network of 64 bits, since one subscriber has them all."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))


def _is_name(name: str) -> bool:
    return 0 < len(name) <= _LONGEST_NAME and all(
        c.isalnum() or c in _NAME_MARKS or unicodedata.combining(c) for c in name
    )


def clean_name(name: str) -> str:
    """Return the name in its one spelling (NFKC, trimmed). Raise 422 if it could be mistaken for another."""
    name = unicodedata.normalize("NFKC", name).strip()
    if not _is_name(name):
        raise Refusal(422, "name_rule", n=_LONGEST_NAME, marks=_NAME_MARKS.strip(), name=repr(name[:80]))
    return name


def gate_of(request: Request) -> Gate:
    """Return the app's gate, as a dependency."""
    return cast(Gate, request.app.state.gate)


def _store(request: Request) -> FeedbackStore:
    return cast(FeedbackStore, request.app.state.store)


Store = Annotated[FeedbackStore, Depends(_store)]


def _annotator(request: Request, store: Store) -> Annotator:
    found = store.session_annotator(str(request.session.get("id", "")))
    if found is None:  # also where the cookie belongs to another store
        raise Refusal(401, "sign_in_first")
    return found


SignedIn = Annotated[Annotator, Depends(_annotator)]


def _admin(annotator: SignedIn) -> Annotator:
    if annotator.role != "admin":
        raise Refusal(403, "only_admin")
    return annotator


Admin = Annotated[Annotator, Depends(_admin)]


def _check_csrf(
    request: Request,
    x_csrf_token: Annotated[str, Header(description="`csrf` of /api/session", max_length=200)] = "",
) -> None:
    if "name" not in request.session:
        raise Refusal(401, "sign_in_first")
    if not csrf_matches(request, x_csrf_token):
        raise HTTPException(403, "X-CSRF-Token is missing or belongs to another session: take `csrf` of /api/session")


CsrfChecked = Depends(_check_csrf)
