"""Run `rlhf feedback settings`, `audit`, `drop`, `archive`, `backup`, `restore`: look after a whole project."""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import asdict
from pathlib import Path

import typer
from pydantic import Field

from rlhf_envs import feedback
from rlhf_envs.feedback import store as feedback_store
from rlhf_envs.feedback import web
from rlhf_envs.feedback.settings_file import (
    changes_for_audit,
    describe_changes,
    read_settings_file,
    settings_as_toml,
)

from ...training.fields import option
from ..options import argument, fail
from .common import StoreConfig, actor, is_missing, open_store

__all__ = [
    *("ArchiveConfig", "AuditConfig", "BackupConfig", "DropConfig", "RestoreConfig", "SettingsConfig"),
    *("archive", "audit", "backup", "drop", "restore", "settings", "webhook_secret"),
]


class SettingsConfig(StoreConfig):
    """Hold the flags of `rlhf feedback settings`."""

    file: str | None = Field(
        None,
        description="TOML file to take the settings from. Without one the present settings are printed.",
        json_schema_extra={"argument": True},
    )


def settings(config: SettingsConfig) -> None:
    """Change the project's settings as a TOML file says, or print them as such a file.

    Settings that the file does not have stay as they are. If anything in it is wrong, nothing changes.
    """
    if config.file is None:
        if is_missing(config.store) and config.store == SettingsConfig.model_fields["store"].default:
            typer.echo(f"there is no {config.store} yet; these are the defaults", err=True)
            typer.echo(settings_as_toml(feedback.Settings()), nl=False)
            return
        with open_store(config.store) as store:
            typer.echo(settings_as_toml(store.settings), nl=False)
        return
    if not Path(config.file).exists():
        fail(f"there is no file {config.file}; `rlhf feedback settings > {config.file}` writes one to begin with")
    changes = read_settings_file(config.file)
    with open_store(config.store, create=True) as store:
        before = store.settings
        after = store.update_settings(**changes)
        if changed := changes_for_audit(before, after):
            store.log(actor(), "settings", after=changed)
        remarks = web.remark_on_settings(store)
    for line in describe_changes(before, after) or ["nothing has changed"]:
        typer.echo(f"{config.store}: {line}")
    for line in remarks:
        typer.echo(f"note: {line}")


def webhook_secret() -> None:
    """Print a new secret, which signs what webhooks send: `secret` in the table webhooks of the settings."""
    typer.echo(f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}")


class AuditConfig(StoreConfig):
    """Hold the flags of `rlhf feedback audit`."""

    item: int | None = option(None, "Id of the item whose changes are wanted. All by default.", ge=1)
    limit: int | None = option(None, "The most entries; the newest are kept. All by default.", "-n", "--limit", ge=1)


def audit(config: AuditConfig) -> None:
    """Print what admins have changed, as JSON lines, the oldest first."""
    with open_store(config.store) as store:
        entries = store.audit(item_id=config.item, limit=config.limit)
    for entry in reversed(entries):
        typer.echo(json.dumps({**asdict(entry), "created": entry.created.isoformat()}))


class DropConfig(StoreConfig):
    """Hold the flags of `rlhf feedback drop`."""

    judgement: int = argument("Id of the judgement, from the admin's page or `rlhf feedback export --format items`.")
    reason: str = option(..., "Why; required. The audit keeps it.")
    reopen: bool = option(True, "Ask somebody else instead.", "--reopen/--no-reopen")
    restore: bool = option(False, "Let a judgement that was dropped stand again.")


def drop(config: DropConfig) -> None:
    """Drop a judgement, so that it leaves all counts and exports, or restore it. The audit keeps both."""
    with open_store(config.store) as store:
        by = actor()
        if config.restore:
            store.restore_judgement(config.judgement, by=by, reason=config.reason)
        else:
            store.drop_judgement(config.judgement, by=by, reason=config.reason, reopen=config.reopen)
    typer.echo(f"{config.store}: judgement {config.judgement} {'stands again' if config.restore else 'is dropped'}")


class ArchiveConfig(StoreConfig):
    """Hold the flags of `rlhf feedback archive`."""

    file: str = argument("Zip to write.")


def archive(config: ArchiveConfig) -> None:
    """Write everything of a project to one zip: items, all judgements, final answers, audit, annotators, settings."""
    if Path(config.file).suffix != ".zip":
        fail(f"{config.file}: give it a name that ends in .zip")
    with open_store(config.store) as store:
        draft = Path(f"{config.file}.part")
        written = web.write_archive(store, draft)
        draft.replace(config.file)
    typer.echo(f"{config.file}: " + ", ".join(f"{n} rows in {name}" for name, n in written.items()))


class BackupConfig(StoreConfig):
    """Hold the flags of `rlhf feedback backup`."""

    file: str = argument("File to write. It must not exist.")


def backup(config: BackupConfig) -> None:
    """Copy the store to a file while people go on labelling. For PostgreSQL it names the command."""
    _echo_counts(config.file, feedback_store.back_up(config.store, config.file))


class RestoreConfig(StoreConfig):
    """Hold the flags of `rlhf feedback restore`."""

    file: str = argument("File that `rlhf feedback backup` has written.")


def restore(config: RestoreConfig) -> None:
    """Make the store of a backup. End the server first, and move the old store away."""
    _echo_counts(config.store, feedback_store.restore_backup(config.file, config.store))


def _echo_counts(place: str, counts: dict[str, int]) -> None:
    """Print how many rows of each kind are in a place."""
    typer.echo(f"{place}: {', '.join(f'{n} {what}' for what, n in counts.items())}")
