"""Run `rlhf feedback invite`, `account`, `forget` and `panel`: who annotates."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from rlhf_envs.feedback import store as feedback_store
from rlhf_envs.feedback import web
from rlhf_envs.feedback.records import NoSuchAnnotator

from ...training.fields import option
from ..options import argument
from .common import StoreConfig, actor, open_store

if TYPE_CHECKING:
    from rlhf_envs.feedback import FeedbackStore

__all__ = ["AccountConfig", "ForgetConfig", "InviteConfig", "PanelConfig", "account", "forget", "invite", "panel"]


class InviteConfig(StoreConfig):
    """Hold the flags of `rlhf feedback invite`."""

    role: Literal["annotator", "admin"] = option("annotator", "annotator or admin.")
    n: int = option(1, "Invitations.", "-n", "--number", ge=1)
    url: str | None = option(None, "Where people reach the page. The address at which it was served last by default.")


def invite(config: InviteConfig) -> None:
    """Print links with which people make an account, each once, within 7 days."""
    with open_store(config.store, create=True) as store:
        address = _page_address(store, config.url)
        for _ in range(config.n):
            typer.echo(f"{address}/invite/{store.invite(config.role)}")


class AccountConfig(StoreConfig):
    """Hold the flags of `rlhf feedback account`."""

    name: str = argument("Whose account.")
    action: Literal["reset", "off", "on", "admit", "withdraw"] = argument(
        "reset (a link for a new password), off, on (again), admit (who failed the training) or withdraw (all labels)."
    )
    yes: bool = option(False, "Withdraw without asking again.")
    url: str | None = option(None, "Where people reach the page. The address at which it was served last by default.")


def account(config: AccountConfig) -> None:
    """Print a link that resets a password, once, within 7 days; or switch an account off or on, admit or withdraw it.

    Withdrawing takes a person's labels out of all exports and counts, and cannot be undone.
    """
    with open_store(config.store) as store:
        if config.action == "reset":
            secret = store.invite_to_reset(config.name)
            store.log(actor(), "link to reset the password", annotator=config.name)
            typer.echo(f"{_page_address(store, config.url)}/invite/{secret}")
        elif config.action == "admit":
            feedback_store.admit(store, config.name, by=actor())
            typer.echo(f"{config.store}: {config.name!r} is let in without the training")
        elif config.action == "withdraw":
            if not config.yes:
                typer.confirm(f"Take out all labels of {config.name!r} and close the account for good?", abort=True)
            done = feedback_store.withdraw_person(store, config.name, by=actor())
            typer.echo(f"{config.store}: {done.judgements} answers and skips of {config.name!r} are out, {done.labels}")
        else:
            store.switch_account(config.name, active=config.action == "on")
            store.log(actor(), f"switch {config.action}", annotator=config.name)
            typer.echo(f"{config.store}: the account {config.name!r} is switched {config.action}")


class ForgetConfig(StoreConfig):
    """Hold the flags of `rlhf feedback forget`."""

    name: str = argument("Whose data.")
    pseudonymise: bool = option(False, "Keep the answers under a name that says nothing, instead of deleting them.")
    yes: bool = option(False, "Do it without asking again.")


def forget(config: ForgetConfig) -> None:
    """Delete a person's data, or cut it from their name, and say what stays and why. It cannot be undone.

    Also works for somebody who withdrew and whose labels were kept. A name that nobody has changes nothing, so that the
    command may be given twice.
    """
    with open_store(config.store) as store:
        what = "Cut the answers of {!r} from their name" if config.pseudonymise else "Delete the data of {!r}"
        if not config.yes:
            typer.confirm(f"{what.format(config.name)} and close the account for good?", abort=True)
        try:
            done = feedback_store.forget_person(store, config.name, pseudonymise=config.pseudonymise, by=actor())
        except NoSuchAnnotator as error:
            typer.echo(f"{config.store}: {error}")
            return
    counts = f"{done.answers} answers and skips {done.labels}, {done.comments} comments deleted"
    typer.echo(f"{config.store}: {counts}\nkept, and why:")
    for sentence in (*done.kept, *done.notes):
        typer.echo(f"- {sentence}")


class PanelConfig(StoreConfig):
    """Hold the flags of `rlhf feedback panel`."""

    output: str = option("-", "CSV file to write; - is standard output.", "-o", "--output")


def panel(config: PanelConfig) -> None:
    """Write who came from a panel: what the panel calls them, their account here, their state and their answers.

    That is personal data. No export has it: there people have the names of their accounts.
    """
    with open_store(config.store) as store:
        table, n = web.panel_csv(store)
    if config.output == "-":
        sys.stdout.write(table)
    else:
        Path(config.output).write_text(table, encoding="utf-8", newline="")
        typer.echo(f"{config.output}: {n} people")


def _page_address(store: FeedbackStore, given: str | None) -> str:
    """Return the address for links: the given one, else where the page was served last, else where it is by default."""
    served = given or store.served_at
    if served is None:
        typer.echo(
            "the page was not served yet: these links are for http://localhost:8000; --url changes that", err=True
        )
    return (served or "http://localhost:8000").rstrip("/")
