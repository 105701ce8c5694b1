"""Find things by the names that users type: modules, files of code, and the nearest of known names."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any, get_args

__all__ = [
    "check_arguments",
    "check_count",
    "check_timeout",
    "did_you_mean",
    "find_name",
    "import_attribute",
    "import_module",
    "is_address",
    "is_imported",
    "list_environments",
    "nearest",
    "nearest_field",
    "unknown_first",
]

MAX_NAMED = 8  # environments that an error lists one by one


def find_name(name: str, names: Iterable[str]) -> str:
    """Return the one of `names` that equals `name` but for case; `name` itself if there is none."""
    known = [*names]
    if name in known:
        return name
    return next((other for other in known if other.lower() == name.lower()), name)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint for a name that is none of `names`: the one that is most alike, or all of them.

    Case does not count, and for "org/Name-v0" the last part is enough.
    """
    known = sorted(names)
    return did_you_mean(name, known) or f"there are {', '.join(known)}"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a question after the one of `names` that is most alike, as for `nearest`; "" if none is alike."""
    folded: dict[str, str] = {}
    for other in sorted(names):
        folded |= {other.lower().rpartition("/")[2]: other, other.lower(): other}
    alike = difflib.get_close_matches(name.lower(), folded, n=1)
    return f"did you mean {folded[alike[0]]!r}?" if alike else ""


def unknown_first(problems: Sequence[Any]) -> Any:
    """Return the first of pydantic's problems; one of an unknown field before all others, which may be due to it."""
    return next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])


def nearest_field(model: Any, place: Sequence[str | int]) -> str:
    """Return a hint, as `nearest` does, for a field that a pydantic model does not have.

    Args:
        model: the outermost model.
        place: where the field is, pydantic's `loc`: fields' names and positions in lists, the unknown one last.
    """
    *outer, name = place
    for part in outer:
        if part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation)
    return nearest(str(name)[:100], model.model_fields)


def _model_in(annotation: Any) -> Any:
    """Return the first pydantic model in a type; None if it has none."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def check_arguments(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise a TypeError for the first argument that is not among the known ones, with the nearest name."""
    names = [*known]
    for name in given:
        if name not in names:
            raise TypeError(f"{what} takes no argument {name!r}; {nearest(name, names)}")


def check_count(name: str, value: Any, default: int) -> int:
    """Return `value`, or `default` if it is None, after checking that it is a whole number of at least 1."""
    value = default if value is None else value
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return int(value)


def check_timeout(what: str, seconds: object) -> None:
    """Raise a ValueError unless a time limit is a number of seconds above 0, or None."""
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise ValueError(f"{what} must be seconds above 0, or None for no limit, got {seconds!r}")


def list_environments(rows: Sequence[int], indices: Sequence[int]) -> str:
    """Return environments and their rows of the data, for errors; of many the first.

    It reads as "environment 2 (row 7 of the data)".
    """
    pairs = [*zip(rows, indices, strict=True)]
    named = ", ".join(f"{row} (row {index} of the data)" for row, index in pairs[:MAX_NAMED])
    return f"environment {named}" + (f" and {len(rows) - MAX_NAMED} more" if len(rows) > MAX_NAMED else "")


def import_module(name: str, what: str) -> ModuleType:
    """Import a module by its name, or a file such as "./my_reward.py". Call it only with what a user typed.

    A file is imported under its own name without ".py", and modules beside it are found, as `python my_reward.py` does.

    Args:
        name: the module or the file.
        what: what it is imported for, such as "reward 'my:score'"; it begins the messages.

    Raises:
        ValueError: there is no such module or file (the message says where it was looked for), it fails while it is
            imported, or another module has the file's name.
    """
    is_file = name.endswith(".py")
    module = Path(name).stem if is_file else name
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{what}: {name!r} is neither a module, such as my_module, nor a file, such as ./my_module.py")
    if is_file and not Path(name).is_file():
        raise ValueError(f"{what}: there is no file {Path(name).resolve()}")
    try:
        return _import_file(Path(name).resolve(), what) if is_file else importlib.import_module(module)
    except ModuleNotFoundError as error:
        if is_file or not f"{module}.".startswith(f"{error.name}."):  # it is there, and imports one that is not
            raise ValueError(f"{what}: importing {name!r} failed: {error}") from error
        advice = did_you_mean(module, (path.stem for path in Path.cwd().glob("*.py"))) or (
            f"run from its folder, put that on PYTHONPATH, or name the file, ./{module.replace('.', '/')}.py"
        )
        raise ValueError(
            f"{what}: there is no module {error.name!r} in {Path.cwd()}, or where Python looks: {advice}"
        ) from error
    except ImportError as error:
        raise ValueError(f"{what}: importing {name!r} failed: {error}") from error
    except SyntaxError as error:
        raise ValueError(f"{what}: {name!r} is not valid Python: {error}") from error
    except Exception as error:  # whatever the module does when it is imported
        if str(error).startswith(f"{what}: "):
            raise
        place = extract_tb(error.__traceback__)[-1]
        where = f"line {place.lineno} of {place.filename}"
        raise ValueError(f"{what}: importing {name!r} failed: {type(error).__name__}: {error} ({where})") from error


def is_imported(name: str) -> bool:
    """Return whether a module, or a file such as "./my_reward.py", has been imported. It imports nothing."""
    return name in sys.modules or (name.endswith(".py") and _imported_file(Path(name).resolve()) is not None)


def _imported_file(path: Path) -> ModuleType | None:
    known = sys.modules.get(path.stem)
    file = getattr(known, "__file__", None)
    return known if file is not None and Path(file) == path else None


def _import_file(path: Path, what: str) -> ModuleType:
    if (known := _imported_file(path)) is not None:
        return known
    if path.stem in sys.modules or path.stem in sys.stdlib_module_names:
        raise ValueError(f"{what}: another module is named {path.stem!r}: rename the file {path}")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # it ends with .py
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def is_address(text: str) -> bool:
    """Return whether `import_attribute` would import something for a text. It imports nothing."""
    name, _, attribute = text.rpartition(":")
    module = Path(name).stem if name.endswith(".py") else name
    return attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def import_attribute(address: str, what: str) -> Any:
    """Import what "module:attribute" or "file.py:attribute" names. See `import_module`.

    Raises:
        ValueError: the address has another form, or there is nothing at it; the message has what there is.
    """
    name, _, attribute = address.rpartition(":")
    if not name or not attribute.isidentifier():
        raise ValueError(f"{what}: {address!r} is no 'module:attribute', and no 'file.py:attribute'")
    module = import_module(name, what)
    if not hasattr(module, attribute):
        there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{what}: there is no {attribute!r} in {name!r}; {nearest(attribute, there)}")
    return getattr(module, attribute)
