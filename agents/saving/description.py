"""Check the form of `agent.json`, the description in a bundle. Anybody may have written it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError

from rlhf_envs.files import BundleError

from .untrusted import describe_problem

__all__ = ["read_description", "reported"]

# What Python and the libraries raise for values that no agent has. (A ValueError has its own message.)
DAMAGE = (
    *(SafetensorError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, RuntimeError),
    *(AssertionError, UnicodeError, MemoryError),
)
Positive = Annotated[int, Field(gt=0, le=10**8)]  # tokens of a context, tokens of a vocabulary


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, protected_namespaces=())


class _Missing(_Part):
    missing: str


class _Environment(_Part):
    id: str
    num_envs: Annotated[int, Field(gt=0, le=10**5)]
    kwargs: dict[str, Any]


class _Base(_Part):
    name: str
    path: str | None = None
    sha256: str


class _Picture(_Part):
    shape: Annotated[list[Annotated[int, Field(gt=0, le=10**5)]], Field(min_length=4, max_length=4)]
    low: float
    high: float


class _Model(_Part):
    name: str | None
    dtype: Literal["float16", "bfloat16", "float32", "float64"]
    attention: str | None
    n_actions: Positive
    length: Positive
    picture: _Picture | None = None
    vocabulary: str | None = None
    base: _Base | None = None


class _Values(_Part):
    attributes: dict[str, Any]
    optimizer: dict[str, Any]
    generators: Any
    env_state: Any
    buffer_state: Any
    extra: dict[str, Any]


class _Description(_Part):
    algorithm: dict[str, str | None]
    device: str
    spaces: Annotated[list[str], Field(min_length=2, max_length=2)]
    env: _Environment | _Missing
    model: _Model | None
    shared: dict[str, str]
    values: _Values


def read_description(file: Path) -> dict[str, Any]:
    """Return the content of `agent.json`, after checking its form.

    Raises:
        BundleError: it has another form. The message has the file and the field.
    """
    with reported(file):
        try:
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            _Description.model_validate(content)
        except ValidationError as error:
            raise BundleError(f"{file}: {describe_problem(error)}: the bundle is damaged or forged") from error
        except ValueError as error:
            raise BundleError(f"{file} is no JSON ({error}): the bundle is damaged or forged") from error
    return content


@contextmanager
def reported(file: Path) -> Iterator[None]:
    """Raise what reading a damaged or forged file causes as a BundleError that names the file."""
    try:
        yield
    except BundleError:
        raise
    except DAMAGE as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise BundleError(f"{file} does not describe an agent ({reason}): it is damaged or forged") from error
