"""Make Typer commands of documented pydantic models: the fields of a verb's model become its flags."""

from __future__ import annotations

import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from traceback import walk_tb
from types import UnionType
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from typer.core import TyperGroup

from rlhf_envs.datasets.reading import BadRow, read_jsonl
from rlhf_envs.dialogs import ReplyError
from rlhf_envs.feedback.records import StoreError
from rlhf_envs.interop.openenv.address import ServerError
from rlhf_envs.models import NAMES
from rlhf_envs.names import nearest
from rlhf_envs.registration import text_environments
from rlhf_envs.rewards import RewardError, list_rewards

from ..registry import available
from ..saving.untrusted import describe_problem
from ..scale.launch import leave_to_launcher
from ..training.config_file import read_config_file
from ..training.data_flags import ChatFlags, DataFlags
from ..training.errors import RunInterrupted, RunStopped

__all__ = [
    "Flags",
    "OneLineErrors",
    "add_command",
    "argument",
    "fail",
    "from_file",
    "read_standard_input",
    "say_error",
    "user_errors",
]

Config = TypeVar("Config", bound=BaseModel)
UNITS = {"k": 10**3, "m": 10**6, "b": 10**9}
# An argument in a message of the library, and its value: a dict, a text in quotes or what has no space in it.
ARGUMENT = re.compile(r"(?<![\w.'\"-])([a-z_]+)=(\{[^{}]*\}|'[^']*'|\"[^\"]*\"|[^\s,;:()]+)")
OF_ENVIRONMENTS = (  # the loggers of what is read and built with each environment
    *("rlhf_envs.chat_format", "rlhf_envs.datasets.", "rlhf_envs.prompts", "rlhf_envs.rewards.reward_model"),
    *("rlhf_envs.task_weights", "rlhf_envs.tasks.", "rlhf_envs.tokens"),
)
METAVARS = {int: "INTEGER", float: "NUMBER"}
PANELS = {  # the boxes of --help, and the fields in each; all others are in "Options"
    "Task and data": {"env", "envs", "data", "reward", "column", "env_kwargs", "split"}
    | {"chat", "system_prompt", "chat_template", "chat_template_kwargs"},
    "Agent": {"algo", "algos", "model", "train", "kl_coef", "kl_coefs", "kl_target", "learning_rate", "lr_schedule"}
    | {"sft_data", "sft_coef", "constraint", "limit", "multiplier_start", "multiplier_step", "multiplier_proportional"}
    | {"aspects", "hyperparams", "settings", "overrides"},
    "Evaluation": {"eval_freq", "n_eval_episodes", "test_episodes", "test_split", "evaluations", "judge", "metric"}
    | {"early_stopping", "eval_patience", "alarm"},
    "Files and logs": {"log_folder", "run_name", "save_freq", "keep_checkpoints", "wandb", "verbose", "progress"}
    | {"tracker", "project"}
    | {"resume", "output", "config", "folder", "dry_run"},
    "Machine": {"device", "threads", "workers", "nproc", "ray", "ray_address", "async_rollouts"}
    | {"worker_retries", "worker_cpus", "worker_gpus", "worker_wait"},
}
USER_ERRORS = (
    *(ValueError, TypeError, OSError, ImportError, FloatingPointError, OverflowError, MemoryError),
    *(StoreError, RewardError, ReplyError, ServerError, RunStopped),
)


class OneLineErrors(TyperGroup):
    """Group commands, and report what is wrong with the words after `rlhf` in one line, with the nearest names."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the words, as Typer does."""
        with _usage_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the command, as Typer does."""
        with _usage_errors():
            return super().invoke(ctx)


@contextmanager
def _usage_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Typer brings a click of its own, or takes the installed one: known by their names
        names = [kind.__name__ for kind in type(error).__mro__]
        if "UsageError" not in names or "NoArgsIsHelpError" in names:
            raise
        context = getattr(error, "ctx", None)
        command = "rlhf" if context is None else " ".join(["rlhf", *context.command_path.split()[1:]])
        fail(f"{_usage_message(error, context)} (see {command} --help)")


def _usage_message(error: Any, context: Any) -> str:
    """Return the message of a usage error, with the option that is most alike where one is unknown."""
    name = getattr(error, "option_name", None)
    if not error.message.startswith("No such option") or name is None or context is None:
        return str(error.format_message())
    flags = [flag for parameter in context.command.params for flag in parameter.opts if flag.startswith("--")]
    short = [flag for flag in flags if "".join(word[0] for word in flag[2:].split("-")) == name.lstrip("-")]
    typed = name.replace("_", "-")
    longer = [flag for flag in flags if flag.startswith(typed) or typed.startswith(flag)]
    hint = f"did you mean {(short or longer)[0]!r}?" if short or longer else nearest(typed, flags)
    return f"no such option: {name}; {hint}"


class Flags(BaseModel):
    """Hold the flags of a verb. Unknown names are refused.

    Attributes:
        boxes: whether its help sorts the flags into the boxes of `PANELS`.
    """

    boxes: ClassVar[bool] = True

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


def argument(description: str) -> Any:
    """Return a field that is given by position."""
    return Field(description=description, json_schema_extra={"argument": True})


def add_command(
    app: typer.Typer, model: type[Config], name: str, box: str | None = None
) -> Callable[[Callable[[Config], None]], None]:
    """Return a decorator that makes a function of a configuration a command with one flag per field.

    A field's description is its help text. `json_schema_extra` may hold `flags` (instead of `--the-name`), `argument`
    (True: given by position) and `type` ("text" for unions). Only what the user gives reaches the model, so the model's
    defaults are the only ones. Errors that the user can cause end the command with one line, see `user_errors`. The
    help of `app` lists the command under the heading `box`.
    """

    def decorate(run: Callable[[Config], None]) -> None:
        def command(**given: Any) -> None:
            try:
                chosen = {key: value for key, value in given.items() if value not in (None, [])}
                config = model(**{key: _number(value, model.model_fields[key]) for key, value in chosen.items()})
            except ValidationError as error:
                fail(_first_error(error, model))
            if given.get("data") and logging.lastResort is not None:  # which prints what no handler takes
                logging.getLogger("rlhf_envs.datasets").setLevel(logging.INFO)  # how many rows each split has
                logging.lastResort.setLevel(logging.INFO)
            with user_errors(model), _each_once():
                run(config)

        hidden = getattr(model, "without", ())  # fields of a base class that are no flags of this verb
        boxes = getattr(model, "boxes", True)
        parameters = [_parameter(key, field, boxes) for key, field in model.model_fields.items() if key not in hidden]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        paragraphs = (run.__doc__ or "").split("\n\n")
        command.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)  # Typer wraps it anew
        app.command(name, rich_help_panel=box)(command)

    return decorate


@contextmanager
def _each_once() -> Iterator[None]:
    """Show what environments say of their task, data and prompts once: a run makes several, which say the same.

    Other messages come as often as they are logged: a failure that is there again is news.
    """
    shown: set[tuple[str, str]] = set()

    def is_new(record: logging.LogRecord) -> bool:
        if not record.name.startswith(OF_ENVIRONMENTS):
            return True
        key = (record.name, record.getMessage())
        known = key in shown
        shown.add(key)
        return not known

    handler = logging.lastResort  # prints what no handler takes
    if handler is not None:
        handler.addFilter(is_new)
    try:
        yield
    finally:
        if handler is not None:
            handler.removeFilter(is_new)


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line to stderr and exit: 2 is for wrong usage. A rank leaves the line to its launcher."""
    line = " ".join(message.split())
    if not leave_to_launcher(line, code):
        say_error(line)
    raise typer.Exit(code)


def say_error(line: str) -> None:
    """Print one line to stderr. It is red unless NO_COLOR is set."""
    color = None if os.environ.get("NO_COLOR") else "red"  # https://no-color.org
    typer.secho(f"rlhf: {line}", fg=color, err=True)


def _complete(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return what shells call for the names that go on from what is typed."""
    return lambda incomplete: [name for name in sorted(names()) if name.lower().startswith(incomplete.lower())]


COMPLETIONS = {
    "algo": _complete(available),
    "algos": _complete(available),
    "env": _complete(text_environments),
    "reward": _complete(list_rewards),
    "judge": _complete(list_rewards),
    "model": _complete(lambda: NAMES),
    "train": _complete(lambda: ("full", "lora", "head")),
    "device": _complete(lambda: ("auto", "cpu", "cuda")),
    "lr_schedule": _complete(lambda: ("constant", "linear", "cosine")),
    "alarm": _complete(lambda: ("warn", "stop")),
}


FAILURES = (RunStopped, RewardError, ReplyError, FloatingPointError, MemoryError)  # that come while it runs


@contextmanager
def user_errors(model: type[BaseModel] | None = None) -> Iterator[None]:
    """Turn errors that a user can cause into one line, with the flags of the verb that `model` describes, and a code.

    The code is 2 for mistakes, 1 for a run that failed, and 130 (SIGINT) or 143 (SIGTERM) for one that a signal ended.

    A ValueError or TypeError of a verb's own code or of its printing is a bug and passes: verbs call `fail` for users.
    """
    try:
        yield
    except BrokenPipeError:  # whoever reads the output has gone, which Typer knows how to handle
        raise
    except USER_ERRORS as error:
        if isinstance(error, ValueError | TypeError) and not isinstance(error, UnicodeError) and _is_bug(error):
            raise
        message = str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:  # instead of "[Errno 2] ..."
            message = f"{error.filename}: {error.strerror}"
        fail(_with_flags(message, model), 1 if isinstance(error, FAILURES) else 2)
    except RunInterrupted as interrupted:
        typer.echo(str(interrupted))
        raise typer.Exit(interrupted.exit_code) from None
    except KeyboardInterrupt:
        fail("interrupted", 130)


def _with_flags(message: str, model: type[BaseModel] | None) -> str:
    """Return a message of the library with a verb's flags in place of Python's arguments, such as `max_length=8`."""
    fields = {} if model is None else model.model_fields

    def flag(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        if name == "columns" and "column" in fields:
            return "--column " + re.sub(r"[{}'\"]", "", value).replace(": ", ":")
        if value.startswith("{") or value in ("True", "False", "None"):
            return found[0]
        if name in fields and not _extra(fields[name]).get("argument"):
            return f"{_long_flag(name, fields[name])} {value}"
        return found[0]

    return ARGUMENT.sub(flag, message)


def from_file(model: type[Config], path: str, given: Mapping[str, Any], short: type[ChatFlags] = DataFlags) -> Config:
    """Return the settings in a file as a model, replaced by the flags that are given. A wrong one ends the command.

    Args:
        model: the model.
        path: the file, TOML, YAML or JSON.
        given: the flags that are given.
        short: the short flags that are settings too.
    """
    try:
        return model(**read_config_file(path, model.model_fields, given, short))
    except ValidationError as error:
        fail(f"{path}: {describe_problem(error)}")


def read_standard_input() -> list[dict[str, Any]]:
    """Return the rows that another command writes to this one, as JSON lines. A bad line ends the command."""
    rows = []
    for found in read_jsonl("standard input", sys.stdin.buffer):
        if isinstance(found, BadRow):
            fail(f"{found.where}: {found.reason}")
        rows.append(found[1])
    return rows


def _is_bug(error: Exception) -> bool:
    """Return whether an error was raised by this package's own code, or while its output was laid out."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    printing = f"{__package__}.tables" in modules or any(module.split(".")[0] == "rich" for module in modules)
    return printing or modules[-1].startswith(f"{__package__}.")


def _parameter(name: str, field: FieldInfo, boxes: bool) -> inspect.Parameter:
    extra = _extra(field)
    kind = str if extra.get("type") == "text" else _plain(field.annotation)
    metavar = "KEY:VALUE" if get_origin(field.annotation) is dict else METAVARS.get(kind, "TEXT")
    shown_kind: Any = str if kind in METAVARS else kind  # the model reads numbers, and says what it was given
    if extra.get("argument"):
        shown: Any = typer.Argument(help=field.description, metavar=name.upper())
    else:
        shown = typer.Option(
            *_flags(name, field),
            help=_help(field),
            show_default=False,
            metavar=None if kind is bool else metavar,
            rich_help_panel=next((panel for panel, names in PANELS.items() if boxes and name in names), None),
            autocompletion=COMPLETIONS.get(name),
        )
    required = extra.get("argument") and field.is_required()
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else None,
        annotation=Annotated[shown_kind if required else shown_kind | None, shown],
    )


def _number(value: Any, field: FieldInfo) -> Any:
    """Return a text such as "100k", "1M" or "1e4" as the whole number that it is, if the field takes one."""
    if not isinstance(value, str) or _plain(field.annotation) is not int or _extra(field).get("type") == "text":
        return value
    unit = UNITS.get(value[-1:].lower(), 1)
    try:
        number = Decimal(value[:-1] if unit > 1 else value) * unit
        return int(number) if number == int(number) else value
    except (ArithmeticError, ValueError):
        return value


def _extra(field: FieldInfo | None) -> dict[str, Any]:
    return field.json_schema_extra if field is not None and isinstance(field.json_schema_extra, dict) else {}


def _flags(name: str, field: FieldInfo | None) -> list[str]:
    return _extra(field).get("flags") or [f"--{name.replace('_', '-')}"]


def _long_flag(name: str, field: FieldInfo | None) -> str:
    flags = _flags(name, field)
    return next((flag for flag in flags if flag.startswith("--")), flags[0])


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
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # it is about several flags, which it names
        return _with_flags(message, model)
    name = str(first["loc"][0])
    return f"{_long_flag(name, model.model_fields.get(name))}: {message} (got {first['input']!r})"
