"""Keep the keys of a served model's clients in a file: their hashes, never the keys themselves."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from filelock import FileLock
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from rlhf_envs.files import replace_file

__all__ = ["SCOPES", "ApiKey", "KeyFile", "Scope"]

Scope = Literal["completions", "feedback", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "rlhf-"  # tells people, and programs that look for leaked keys, what it is
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LONGEST = 200  # characters of what is looked up


class ApiKey(BaseModel):
    """Hold what is known of a key.

    Attributes:
        id: tells keys of the same name apart.
        name: whose key it is.
        hash: the SHA-256 of the key, in hexadecimal. A key has 256 random bits, so that no slower hash is needed.
        scopes: what the key may do; "admin" may do everything.
        expires: when it stops working (UTC); None for never.
        revoked: when it was revoked (UTC).
        per_minute: requests per minute; None for the server's limit.
        at_once: requests at once; None for the server's limit.
        consent: whether this client's users agree that a sample of their requests is kept for review.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    name: str
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...]
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None
    per_minute: int | None = Field(default=None, gt=0)
    at_once: int | None = Field(default=None, gt=0)
    consent: bool = False

    def may(self, scope: Scope) -> bool:
        """Return whether the key has a scope."""
        return scope in self.scopes or "admin" in self.scopes

    def is_live(self, now: datetime) -> bool:
        """Return whether the key works at a moment."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class _File(BaseModel):
    """Check what is read of the file."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["rlhf-envs keys"]
    version: Literal[1]
    keys: list[ApiKey]


class KeyFile:
    """Add, find and revoke keys. Any number of processes may use one file at the same time.

    Every `find` looks whether the file has changed, so that a revoked key stops working with the next request.

    Args:
        path: the file. The first key makes it, readable for its owner alone.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._seen: tuple[int, int, int] | None = None
        self._by_hash: dict[str, ApiKey] = {}

    def add(
        self,
        name: str,
        scopes: Iterable[Scope] = ("completions", "feedback"),
        *,
        days: float | None = None,
        per_minute: int | None = None,
        at_once: int | None = None,
        consent: bool = False,
    ) -> tuple[ApiKey, str]:
        """Make a key. Return it with the text that the client sends, which is kept nowhere.

        Raises:
            ValueError: the name, a scope or a limit is not allowed, or the file is damaged.
        """
        if not NAME.fullmatch(name):
            raise ValueError(f"name {name!r}: expected 1 to 64 letters, digits, dots, dashes and underscores")
        chosen = set(scopes)
        if unknown := sorted(map(str, chosen - set(SCOPES))):
            raise ValueError(f"scope {unknown[0]!r}: there are {', '.join(SCOPES)}")
        if not chosen:
            raise ValueError(f"a key without a scope could do nothing: there are {', '.join(SCOPES)}")
        if days is not None and not 0 < days <= 36_500:
            raise ValueError(f"days={days}: expected a number above 0, at most 36500")
        secret, now = PREFIX + secrets.token_urlsafe(32), datetime.now(UTC)
        key = ApiKey(
            id=secrets.token_hex(4),
            name=name,
            hash=_hash(secret),
            scopes=tuple(scope for scope in SCOPES if scope in chosen),
            created=now,
            expires=None if days is None else now + timedelta(days=days),
            per_minute=per_minute,
            at_once=at_once,
            consent=consent,
        )
        with self._lock():
            self._write([*self.list(), key])
        return key, secret

    def list(self) -> list[ApiKey]:
        """Return all keys, oldest first. A file that is missing has none.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        try:
            return _File.model_validate_json(text).keys
        except ValidationError as error:
            raise ValueError(f"{self.path} is no file of keys, or damaged: {error.errors()[0]['msg']}") from error

    def revoke(self, name: str) -> int:
        """Revoke the key with an id, or all keys of a name. Return how many worked until now.

        Raises:
            ValueError: there is no such key.
        """
        now = datetime.now(UTC)
        with self._lock():
            keys = self.list()
            chosen = [key for key in keys if name in (key.id, key.name)]
            if not chosen:
                raise ValueError(f"there is no key {name!r} in {self.path}: rlhf serve keys list")
            live = [key for key in chosen if key.revoked is None]
            self._write([key.model_copy(update={"revoked": now}) if key in live else key for key in keys])
        return len([key for key in live if key.is_live(now)])

    def find(self, secret: str) -> ApiKey | None:
        """Return the key that a client sent, if it works now.

        Raises:
            ValueError, OSError: the file cannot be read.
        """
        try:
            about = self.path.stat()
            seen = (about.st_ino, about.st_mtime_ns, about.st_size)
        except FileNotFoundError:
            return None
        if seen != self._seen:
            self._by_hash = {key.hash: key for key in self.list()}
            self._seen = seen
        if len(secret) > LONGEST:
            return None
        # Which hashes are in the file cannot be learned from the time this takes: nobody can choose a hash.
        key = self._by_hash.get(_hash(secret))
        return key if key is not None and key.is_live(datetime.now(UTC)) else None

    def _lock(self) -> FileLock:
        return FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=10)

    def _write(self, keys: Iterable[ApiKey]) -> None:
        draft = self.path.with_name(f".{self.path.name}.tmp")  # what `replace_file` writes, and then renames
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        content = _File(format="rlhf-envs keys", version=1, keys=[*keys])
        replace_file(self.path, f"{content.model_dump_json(indent=1)}\n".encode())


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
