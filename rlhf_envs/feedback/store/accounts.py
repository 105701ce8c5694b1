"""Keep annotators, invitations, password hashes and sessions. The web page hashes and checks the passwords."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ..records import MODEL_MARK, Annotator
from .database import Database
from .queue import ANNOTATORS, annotator_named
from .schema import OPEN, annotators, invitations, sessions, tasks

__all__ = ["Accounts", "check_other_admin"]

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

    def check_name(self, name: str) -> None:
        """Raise a ValueError unless an annotator may have this name."""
        _check_name(name)

    def annotators(self) -> list[Annotator]:
        """Return all annotators, oldest first."""
        with self._database.read() as connection:
            return [Annotator(*row) for row in connection.execute(ANNOTATORS.order_by(annotators.c.id))]

    def invite(self, role: str = "annotator", *, days: float = 7.0) -> str:
        """Return a token with which one person may register within `days`. Only its hash is kept."""
        _check_role(role)
        with self._database.write() as connection:
            return self._new_invitation(connection, days, role=role)

    def invite_to_reset(self, name: str, *, days: float = 7.0) -> str:
        """Return a token with which the annotator may choose a new password. Earlier ones stop working.

        Raises:
            ValueError: there is no such annotator, or the account is switched off.
        """
        with self._database.write() as connection:
            person = _person(connection, name)
            if not person.active:
                raise ValueError(f"the account {name!r} is switched off: switch it on first")
            connection.execute(sa.delete(invitations).where(invitations.c.annotator_id == person.id))
            return self._new_invitation(connection, days, role=person.role, annotator_id=person.id)

    def invited_name(self, token: str) -> str | None:
        """Return whose password a token resets, or None if it makes a new account.

        Raises:
            ValueError: the token would not work now.
        """
        with self._database.read() as connection:
            return self._invitation(connection, token).name

    def register(self, token: str, name: str, password_hash: str) -> Annotator:
        """Use up an invitation and return its account: a new one, or one whose password is now reset.

        A reset ends the account's sessions.

        Raises:
            ValueError: the invitation is unknown, used, out of date or another's, or the name is taken or not allowed.
        """
        _check_name(name)
        if name.startswith(MODEL_MARK):
            raise ValueError(
                f"names that begin with {MODEL_MARK!r} mark models that annotate: choose another than {name!r}"
            )
        now = self._clock()
        with self._database.write() as connection:
            self._database.one_writer(connection)
            invitation = self._invitation(connection, token)
            if invitation.name not in (None, name):
                raise ValueError(f"this link resets the password of another account than {name!r}: ask for a new one")
            if invitation.name is not None:
                person = annotators.c.id == invitation.annotator_id
                connection.execute(sa.update(annotators).where(person).values(password_hash=password_hash))
                connection.execute(sa.delete(sessions).where(sessions.c.annotator_id == invitation.annotator_id))
            elif connection.execute(sa.select(annotators.c.id).where(annotators.c.name == name)).first():
                raise ValueError(f"the name {name!r} is taken: choose another")
            else:
                account = {"name": name, "role": invitation.role, "created": now, "password_hash": password_hash}
                connection.execute(sa.insert(annotators).values(account))
            connection.execute(
                sa.update(invitations).where(invitations.c.token_hash == invitation.token_hash).values(used=now)
            )
            return annotator_named(connection, name)

    def change_role(self, name: str, role: str) -> None:
        """Make an annotator an admin, or the other way round. The sessions stay, and have the new role at once.

        Raises:
            ValueError: there is no such annotator or role, or nobody else active is an admin.
        """
        _check_role(role)
        with self._database.write() as connection:
            self._database.one_writer(connection)
            person = _person(connection, name)
            if role != "admin":
                check_other_admin(connection, name)
            connection.execute(sa.update(annotators).where(annotators.c.id == person.id).values(role=role))

    def end_sessions(self, name: str) -> int:
        """Sign an annotator out everywhere. Return how many sessions ended.

        Raises:
            ValueError: there is no such annotator.
        """
        with self._database.write() as connection:
            person = _person(connection, name)
            ended = connection.execute(sa.delete(sessions).where(sessions.c.annotator_id == person.id))
            return int(ended.rowcount)

    def live_sessions(self) -> dict[str, int]:
        """Return how many live sessions each annotator has who has any."""
        query = sa.select(annotators.c.name, sa.func.count()).join(sessions, sessions.c.annotator_id == annotators.c.id)
        query = query.where(sessions.c.expires > self._clock(), annotators.c.active).group_by(annotators.c.name)
        with self._database.read() as connection:
            return {name: count for name, count in connection.execute(query)}

    def switch_account(self, name: str, *, active: bool) -> None:
        """Let an annotator sign in, or not. Switching off ends their sessions and frees the item that they hold.

        Raises:
            ValueError: there is no such annotator, or nobody else active is an admin.
        """
        with self._database.write() as connection:
            self._database.one_writer(connection)
            person = _person(connection, name)
            if not active:
                check_other_admin(connection, name)
            connection.execute(sa.update(annotators).where(annotators.c.id == person.id).values(active=active))
            if not active:
                connection.execute(sa.delete(sessions).where(sessions.c.annotator_id == person.id))
                held = sa.update(tasks).where(tasks.c.annotator_id == person.id, OPEN)
                connection.execute(held.values(state="released"))

    def password_hash(self, name: str) -> str | None:
        """Return the password hash of an account. None if it is unknown, switched off, or has no password."""
        if not _is_text(name):
            return None  # nobody has a name with a NUL or a lone surrogate
        query = sa.select(annotators.c.password_hash).where(annotators.c.name == name, annotators.c.active)
        with self._database.read() as connection:
            return connection.execute(query).scalar()

    def begin_session(self, name: str, password_hash: str | None, *, days: float = 14.0) -> str | None:
        """Return the token of a new session. None if the account is switched off or its password has changed.

        A person of a panel has no password, and the hash is None.
        """
        token, now = secrets.token_urlsafe(24), self._clock()
        with self._database.write() as connection:
            person = _person(connection, name)
            known = sa.select(annotators.c.password_hash).where(annotators.c.id == person.id)
            if not person.active or connection.execute(known).scalar() != password_hash:
                return None
            connection.execute(sa.delete(sessions).where(sessions.c.expires <= now))
            row = {"token_hash": _hash(token), "annotator_id": person.id, "expires": now + timedelta(days=days)}
            connection.execute(sa.insert(sessions).values(row))
        return token

    def session_annotator(self, token: str) -> Annotator | None:
        """Return whose session it is, or None if there is no such session any more."""
        query = ANNOTATORS.join(sessions, sessions.c.annotator_id == annotators.c.id)
        live = sessions.c.token_hash == _hash(token), sessions.c.expires > self._clock(), annotators.c.active
        with self._database.read() as connection:
            row = connection.execute(query.where(*live)).one_or_none()
        return None if row is None else Annotator(*row)

    def end_session(self, token: str) -> None:
        """End a session. Nothing happens if there is none."""
        with self._database.write() as connection:
            connection.execute(sa.delete(sessions).where(sessions.c.token_hash == _hash(token)))

    def _new_invitation(self, connection: sa.Connection, days: float, **values: Any) -> str:
        token = secrets.token_urlsafe(24)
        expires = self._clock() + timedelta(days=days)
        connection.execute(sa.insert(invitations).values(token_hash=_hash(token), expires=expires, **values))
        return token

    def _invitation(self, connection: sa.Connection, token: str) -> sa.Row[Any]:
        """Return the invitation with the `name` of the account whose password it resets."""
        whose = invitations.outerjoin(annotators, invitations.c.annotator_id == annotators.c.id)
        query = sa.select(invitations, annotators.c.name, annotators.c.active).select_from(whose)
        found = connection.execute(query.where(invitations.c.token_hash == _hash(token))).one_or_none()
        if found is None or found.used is not None or found.expires <= self._clock() or found.active is False:
            raise ValueError("the invitation is unknown, used or out of date: ask for a new one")
        return found


def _person(connection: sa.Connection, name: str) -> Annotator:
    """Return the annotator of this name, and let no other transaction act for them until ours ends."""
    if not _is_text(name):
        raise ValueError(f"there is no annotator {name!r}")
    return annotator_named(connection, name, lock=True)


def check_other_admin(connection: sa.Connection, name: str) -> None:
    """Raise a ValueError if nobody but the one of this name is an admin who may sign in."""
    admins = sa.select(annotators.c.name).where(annotators.c.role == "admin", annotators.c.active)
    if connection.execute(admins).scalars().all() == [name]:
        raise ValueError(f"{name!r} is the only admin who may sign in: make another first")


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
