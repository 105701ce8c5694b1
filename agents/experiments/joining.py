"""Go on with an experiment whose folder exists: read its configuration, and refuse what its other runs do not have."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from ..saving.folders import CONFIG, LOCK, read_object
from ..saving.untrusted import describe_problem
from ..training.config_file import check_imports
from ..training.fields import Settings

__all__ = ["check_unchanged", "read_saved"]

C = TypeVar("C", bound=Settings)


def read_saved(given: C, path: Path, kind: str, needs: str) -> C | None:
    """Return the configuration of the experiment in a folder; None if nothing has been written there.

    Args:
        given: the configuration that is asked for; what it names may be imported.
        path: the folder.
        kind: what the folder holds, such as "comparison".
        needs: a setting that only this kind of configuration has.

    Raises:
        ValueError: the folder holds something else, or its file would import what is not given too.
    """
    file = path / CONFIG
    if not file.is_file():
        if path.exists() and (not path.is_dir() or {inside.name for inside in path.iterdir()} - {LOCK}):
            raise ValueError(f"{path} exists and is no {kind}, it has no {CONFIG}: choose another folder")
        return None
    try:
        values = read_object(file)
        if needs not in values:
            raise ValueError(f"it has no {needs!r}")
        saved = type(given)(**values)
    except ValueError as error:
        problem = describe_problem(error) if isinstance(error, ValidationError) else error
        raise ValueError(f"{file} is not the configuration of a {kind}: {problem}") from error
    check_imports(saved.model_dump(), str(file), given.model_dump(exclude_unset=True))
    return saved


def check_unchanged(given: C, saved: C, free: Collection[str], experiment: str, why: str) -> None:
    """Raise ValueError, with the name and both values, if a given setting that is not `free` differs from the saved.

    Args:
        given: the configuration that is asked for.
        saved: that of the folder.
        free: names of settings that may change.
        experiment: what the message calls it, such as "comparison in logs/c".
        why: what the message says of the reason.
    """
    for name in given.model_fields_set - {*free}:
        value, before = getattr(given, name), getattr(saved, name)
        if value != before:
            raise ValueError(
                f"{name}={value!r}, and the {experiment} has {before!r}: {why}. Choose another folder, or leave the "
                "setting out"
            )
