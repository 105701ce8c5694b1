"""Keep annotators, invitations and password hashes. The web page hashes and checks the passwords."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ..records import Annotator
from .database import Database
from .queue import ANNOTATORS, annotator_named
from .schema import annotators, invitations

__all__ = ["Accounts"]

_ROLES = ("annotator", "admin")
_LONGEST_NAME = 100


class Accounts:
    """Manage the people in the store. `FeedbackStore` inherits from this class."""

    _database: Database
    _clock: Callable[[], datetime]

    def add_annotator(self, name: str, role: str = "annotator") -> Annotator:
        """Add an annotator without a password. If the name and role are known already, return that annotator.

        Raises:
            ValueError: the name is not allowed, or an account of another role has it.
        """
        _check_name(name)
        _check_role(role)
        with self._database.write() as connection:
            self._database.one_writer(connection)
            found = connection.execute(sa.select(annotators.c.role).where(annotators.c.name == name)).scalar()
            if found is None:
                connection.execute(sa.insert(annotators).values(name=name, role=role, created=self._clock()))
            elif found != role:
                raise ValueError(f"the name {name!r} is taken by an account of role {found!r}: choose another")
            return annotator_named(connection, name)

    def annotators(self) -> list[Annotator]:
        """Return all annotators, oldest first."""
        with self._database.read() as connection:
            return [Annotator(*row) for row in connection.execute(ANNOTATORS.order_by(annotators.c.id))]

    def invite(self, role: str = "annotator", *, days: float = 7.0) -> str:
        """Return a token with which one person may register within `days`. Only its hash is kept."""
        _check_role(role)
        token = secrets.token_urlsafe(24)
        with self._database.write() as connection:
            connection.execute(
                sa.insert(invitations).values(
                    token_hash=_hash(token), role=role, expires=self._clock() + timedelta(days=days)
                )
            )
        return token

    def check_invitation(self, token: str) -> None:
        """Raise a ValueError unless the token would work now."""
        with self._database.read() as connection:
            self._invitation(connection, token)

    def register(self, token: str, name: str, password_hash: str) -> Annotator:
        """Use up an invitation and return the new account.

        Raises:
            ValueError: the invitation is unknown, used or out of date, or the name is taken or not allowed.
        """
        _check_name(name)
        now = self._clock()
        with self._database.write() as connection:
            self._database.one_writer(connection)
            invitation = self._invitation(connection, token)
            if connection.execute(sa.select(annotators.c.id).where(annotators.c.name == name)).first():
                raise ValueError(f"the name {name!r} is taken: choose another")
            connection.execute(
                sa.insert(annotators).values(name=name, role=invitation.role, created=now, password_hash=password_hash)
            )
            connection.execute(
                sa.update(invitations).where(invitations.c.token_hash == invitation.token_hash).values(used=now)
            )
            return annotator_named(connection, name)

    def _invitation(self, connection: sa.Connection, token: str) -> sa.Row[Any]:
        found = connection.execute(sa.select(invitations).where(invitations.c.token_hash == _hash(token))).one_or_none()
        if found is None or found.used is not None or found.expires <= self._clock():
            raise ValueError("the invitation is unknown, used or out of date: ask for a new one")
        return found

    def password_hash(self, name: str) -> str | None:
        """Return the password hash of an account, or None if the name is unknown or has no password."""
        if not _is_text(name):
            return None  # nobody has a name with a NUL or a lone surrogate
        with self._database.read() as connection:
            return connection.execute(sa.select(annotators.c.password_hash).where(annotators.c.name == name)).scalar()


def _check_name(name: str) -> None:
    if not name.strip() or name != name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise ValueError(
            f"an annotator's name must have 1 to {_LONGEST_NAME} printable characters and no space at its ends, got "
            f"{name[:_LONGEST_NAME]!r}"
        )


def _check_role(role: str) -> None:
    if role not in _ROLES:
        raise ValueError(f"unknown role {role!r}; there are {', '.join(_ROLES)}")


def _is_text(value: str) -> bool:
    """Return whether both databases can hold the value as text."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
