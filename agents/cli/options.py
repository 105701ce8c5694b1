"""Make Typer commands of documented pydantic models: the fields of a verb's model become its flags."""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import walk_tb
from types import UnionType
from typing import Annotated, Any, NoReturn, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from rlhf_envs.datasets.reading import BadRow, read_jsonl
from rlhf_envs.feedback.records import StoreError
from rlhf_envs.rewards import RewardError

from ..training.errors import RunInterrupted, RunStopped

__all__ = ["Flags", "add_command", "argument", "fail", "read_standard_input", "user_errors"]

Config = TypeVar("Config", bound=BaseModel)
USER_ERRORS = (ValueError, TypeError, OSError, ImportError, FloatingPointError, StoreError, RewardError)


class Flags(BaseModel):
    """Hold the flags of a verb. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


def argument(description: str) -> Any:
    """Return a field that is given by position."""
    return Field(description=description, json_schema_extra={"argument": True})


def add_command(app: typer.Typer, model: type[Config], name: str) -> Callable[[Callable[[Config], None]], None]:
    """Return a decorator that makes a function of a configuration a command with one flag per field.

    A field's description is its help text. `json_schema_extra` may hold `flags` (instead of `--the-name`), `argument`
    (True: given by position) and `type` ("text" for unions). Only what the user gives reaches the model, so the model's
    defaults are the only ones. Errors that the user can cause end the command with one line, see `user_errors`.
    """

    def decorate(run: Callable[[Config], None]) -> None:
        def command(**given: Any) -> None:
            try:
                config = model(**{key: value for key, value in given.items() if value not in (None, [])})
            except ValidationError as error:
                fail(_first_error(error, model))
            if given.get("data") and logging.lastResort is not None:  # which prints what no handler takes
                logging.getLogger("rlhf_envs.datasets").setLevel(logging.INFO)  # how many rows each split has
                logging.lastResort.setLevel(logging.INFO)
            with user_errors():
                run(config)

        parameters = [_parameter(key, field) for key, field in model.model_fields.items()]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        paragraphs = (run.__doc__ or "").split("\n\n")
        command.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)  # Typer wraps it anew
        app.command(name)(command)

    return decorate


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line to stderr and exit with a code. The line is red unless NO_COLOR is set."""
    color = None if os.environ.get("NO_COLOR") else "red"  # https://no-color.org
    typer.secho(f"rlhf: {' '.join(message.split())}", fg=color, err=True)
    raise typer.Exit(code)


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors that a user can cause into one line and an exit code.

    The code is 2 for mistakes, 1 for a run that failed, and 130 (SIGINT) or 143 (SIGTERM) for one that a signal ended.

    A ValueError or TypeError of a verb's own code or of its printing is a bug and passes: verbs call `fail` for users.
    """
    try:
        yield
    except BrokenPipeError:  # whoever reads the output has gone, which Typer knows how to handle
        raise
    except RunStopped as error:
        fail(str(error), 1)
    except USER_ERRORS as error:
        if isinstance(error, ValueError | TypeError) and not isinstance(error, UnicodeError) and _is_bug(error):
            raise
        fail(str(error))
    except RunInterrupted as interrupted:
        typer.echo(str(interrupted))
        raise typer.Exit(interrupted.exit_code) from None
    except KeyboardInterrupt:
        fail("interrupted", 130)


def read_standard_input() -> list[dict[str, Any]]:
    """Return the rows that another command writes to this one, as JSON lines. A bad line ends the command."""
    rows = []
    for found in read_jsonl("standard input", sys.stdin.buffer.read()):
        if isinstance(found, BadRow):
            fail(f"{found.where}: {found.reason}")
        rows.append(found[1])
    return rows


def _is_bug(error: Exception) -> bool:
    """Return whether an error was raised by this package's own code, or while its output was laid out."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    printing = f"{__package__}.tables" in modules or any(module.split(".")[0] == "rich" for module in modules)
    return printing or modules[-1].startswith(f"{__package__}.")


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    extra = _extra(field)
    kind = str if extra.get("type") == "text" else _plain(field.annotation)
    if extra.get("argument"):
        shown: Any = typer.Argument(help=field.description, metavar=name.upper())
    else:
        metavar = "KEY:VALUE" if get_origin(field.annotation) is dict else None
        shown = typer.Option(*_flags(name, field), help=_help(field), show_default=False, metavar=metavar)
    required = extra.get("argument") and field.is_required()
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else None,
        annotation=Annotated[kind if required else kind | None, shown],
    )


def _extra(field: FieldInfo | None) -> dict[str, Any]:
    return field.json_schema_extra if field is not None and isinstance(field.json_schema_extra, dict) else {}


def _flags(name: str, field: FieldInfo | None) -> list[str]:
    return _extra(field).get("flags") or [f"--{name.replace('_', '-')}"]


def _help(field: FieldInfo) -> str | None:
    if field.is_required() or field.default is False or field.default in (None, {}, []):
        return field.description
    return f"{field.description} Default: {'yes' if field.default is True else field.default}."


def _plain(annotation: Any) -> Any:
    """Return the type of a flag: `int` for `int | None`, a list of texts for lists and dicts."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) in (dict, list, tuple):
        return list[str]
    return annotation if annotation in (int, float, bool) else str


def _first_error(error: ValidationError, model: type[BaseModel]) -> str:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    flags = _flags(name, model.model_fields.get(name))
    flag = next((flag for flag in flags if flag.startswith("--")), flags[0])
    return f"{flag}: {first['msg'].removeprefix('Value error, ')} (got {first['input']!r})"
