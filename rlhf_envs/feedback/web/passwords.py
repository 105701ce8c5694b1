"""Hash and check passwords, and refuse those that are guessed first."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import secrets
import string
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from typing import ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from .words import Refusal, WrongValue

__all__ = ["MAX_PASSWORD", "MIN_PASSWORD", "Passwords", "SignInPool", "check_password"]

MIN_PASSWORD, MAX_PASSWORD = 8, 1000
_FEWEST_CHARACTERS = 5  # different ones
_WAITING = 128  # sign-ins. At about 30 ms each, the last waits 4 seconds.

P = ParamSpec("P")
T = TypeVar("T")


class Passwords:
    """Hash passwords with Argon2id: 19 MiB, 2 passes, 1 lane, the second choice of the OWASP cheat sheet."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

    @cached_property
    def _nobody(self) -> str:
        return self._hasher.hash(secrets.token_hex(16))

    def hash(self, password: str) -> str:
        """Return the hash of a password."""
        return self._hasher.hash(password)

    def verify(self, password: str, password_hash: str | None) -> bool:
        """Return whether a password fits a hash. Without a hash the answer is False and takes as long."""
        try:
            return self._hasher.verify(password_hash or self._nobody, password) and password_hash is not None
        except (Argon2Error, InvalidHashError):
            return False


class SignInPool:
    """Run what hashes passwords in few threads of low priority, so that a flood of sign-ins slows nobody else."""

    def __init__(self, waiting: int = _WAITING) -> None:
        workers = max(1, (os.cpu_count() or 1) // 2)
        self._threads = ThreadPoolExecutor(workers, "sign-in", initializer=_yield_to_others)
        self._places = threading.BoundedSemaphore(workers + waiting)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a function returns. Raise 503 if too many wait already."""
        if not self._places.acquire(blocking=False):
            raise Refusal(503, "too_many_sign_ins", {"Retry-After": "5"})
        work = self._threads.submit(function, *args, **kwargs)
        work.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(work)


def _yield_to_others() -> None:
    with contextlib.suppress(AttributeError, OSError):  # Linux gives a thread a priority of its own, others do not
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def check_password(password: str, name: str) -> None:
    """Raise a WrongValue if a password is too short or is likely to be guessed."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise WrongValue("password_length", low=MIN_PASSWORD, high=MAX_PASSWORD, n=len(password))
    folded = password.casefold()
    bare = folded.strip(string.digits + string.punctuation)  # "sunshine2026!" is no better than "sunshine"
    if len(set(folded)) < _FEWEST_CHARACTERS:
        raise WrongValue("password_variety", n=_FEWEST_CHARACTERS)
    if not {folded, bare}.isdisjoint(_common()):
        raise WrongValue("password_common")
    if name.casefold() in (folded, bare):
        raise WrongValue("password_is_name")


@cache
def _common() -> frozenset[str]:
    """Return the most common passwords of at least 8 characters (source and licence: `common_passwords.md`)."""
    packed = Path(__file__).with_name("common_passwords.txt.gz").read_bytes()
    return frozenset(gzip.decompress(packed).decode().split("\n"))  # with "", which is what is left of "12345678"
