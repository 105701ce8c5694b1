"""Typer commands out of documented pydantic models: the fields of a verb's one model become its flags."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

__all__ = ["add_command", "fail", "user_errors"]

Config = TypeVar("Config", bound=BaseModel)


def add_command(app: typer.Typer, model: type[Config], name: str) -> Callable[[Callable[[Config], None]], None]:
    """Make a function of a configuration a command whose flags are the fields of the configuration.

    A field's description is its help. `json_schema_extra` may hold `flags` (instead of `--the-name`), `argument` (True:
    positional) and `type` ("text" for unions). Only what the user gives reaches the model, so its defaults are the only
    ones there are.
    """

    def decorate(run: Callable[[Config], None]) -> None:
        def command(**given: Any) -> None:
            try:
                config = model(**{key: value for key, value in given.items() if value not in (None, [])})
            except ValidationError as error:
                fail(_first_error(error, model))
            run(config)

        parameters = [_parameter(key, field) for key, field in model.model_fields.items()]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__doc__ = run.__doc__
        app.command(name)(command)

    return decorate


def fail(message: str) -> None:
    """Print one line to stderr and exit with code 2."""
    typer.secho(f"rlhf: {' '.join(message.split())}", fg="red", err=True)
    raise typer.Exit(2)


class user_errors:
    """Turn the errors that a user's input causes into one line and exit code 2."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            return
        from rlhf_envs.feedback.records import StoreError

        if isinstance(error, ValueError | TypeError | OSError | ImportError | FloatingPointError | StoreError):
            fail(str(error))
        from rlhf_envs.rewards import RewardError  # the rest costs the import of torch

        from ..training.run import RunStopped

        if isinstance(error, RewardError | RunStopped):
            fail(str(error))


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    extra: dict[str, Any] = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    kind = str if extra.get("type") == "text" else _plain(field.annotation)
    if extra.get("argument"):
        option: Any = typer.Argument(help=field.description, metavar=name.upper())
    else:
        flags = extra.get("flags") or [f"--{name.replace('_', '-')}"]
        shown = None if field.default in (None, {}, []) or field.is_required() else field.default
        if isinstance(shown, bool):
            shown = "yes" if shown else None
        text = field.description if shown is None else f"{field.description} Default: {shown}."
        metavar = "KEY:VALUE" if _plain(field.annotation) == list[str] and _is_dict(field) else None
        option = typer.Option(*flags, help=text, show_default=False, metavar=metavar)
    required = extra.get("argument") and field.is_required()
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else None,
        annotation=Annotated[kind if required else kind | None, option],
    )


def _plain(annotation: Any) -> Any:
    """The type of a flag: of `int | None` int, of a dict a list of key:value texts."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) in (dict, list, tuple):
        return list[str]
    return annotation if annotation in (int, float, bool) else str


def _is_dict(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is dict


def _first_error(error: ValidationError, model: type[BaseModel]) -> str:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    field = model.model_fields.get(name)
    extra = field.json_schema_extra if field is not None else None
    flags: list[str] = extra.get("flags", []) if isinstance(extra, dict) else []  # type: ignore[assignment]
    flag = next((flag for flag in flags if flag.startswith("--")), f"--{name.replace('_', '-')}")
    return f"{flag}: {first['msg'].removeprefix('Value error, ')} (got {first['input']!r})"
