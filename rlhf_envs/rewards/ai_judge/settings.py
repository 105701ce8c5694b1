"""Read what a judge is: its model, its rubric, and its limits, from a YAML file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from rlhf_envs.files import check_size
from rlhf_envs.names import nearest_field, unknown_first

__all__ = ["JudgeSettings", "read_judge_settings"]

MAX_FILE = 2**20  # bytes
LOOPBACK = ("localhost", "127.0.0.1", "::1")
KEY_NAME = re.compile(r"[A-Z][A-Z0-9_]*_API_KEY")

Text = Annotated[str, Field(min_length=1)]


class JudgeSettings(BaseModel):
    """Describe a judge. Nothing in it names code, and the API key is in no file.

    Attributes:
        model: the name under which the server has the model; without `url` a local model: a name, folder or hub id.
        url: the address of a server that speaks OpenAI's `/v1/chat/completions`, with or without "/v1". None for a
            local model.
        api_key_env: the environment variable with the server's key. Its name ends in _API_KEY, so that no file of
            somebody else's has another secret of yours sent away. It is sent over https, or to this machine.
        name: what the judge is called as an annotator. By default the last part of the model's name.
        rubric: what makes a text good, in words.
        rubric_file: a text file with the rubric, beside this one.
        principles: a constitution: the principles that the better text keeps.
        scale: the lowest and the highest rating.
        against: a column of the data with texts to compare completions with; the reward is then 1 for a win, 0.5 for a
            tie, 0 for a loss. None rates each completion alone.
        temperature: how the server draws.
        max_tokens: the longest answer of the judge, in tokens.
        concurrency: the most requests at a time.
        timeout: seconds after which a request counts as failed.
        retries: how often a request is repeated that fails on the way, or is turned away because the server is busy.
        max_requests: the most requests of a program, retries among them. None is no limit.
        max_total_tokens: the most tokens of a program, of questions and answers. None is no limit. Requests that are
            under way when it is reached come on top.
        max_failures: the share of answers without a verdict above which the judge stops, from 20 answers on.
        failure_score: the reward of a completion whose answer has no verdict. None gives it no score, which is an error
            unless another reward applies.
        cache: the SQLite file of answers, beside this one; by default the name of this file with ".cache.db". False
            keeps none.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    model: Text
    url: str | None = None
    api_key_env: str | None = None
    name: str | None = Field(default=None, pattern=r"^[\w.+-]{1,60}$")
    rubric: Text | None = None
    rubric_file: Text | None = None
    principles: tuple[Text, ...] = ()
    scale: tuple[int, int] = (1, 10)
    against: Text | None = None
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=512, ge=1)
    concurrency: int = Field(default=8, ge=1, le=256)
    timeout: float = Field(default=60.0, gt=0)
    retries: int = Field(default=4, ge=0, le=20)
    max_requests: int | None = Field(default=None, ge=1)
    max_total_tokens: int | None = Field(default=None, ge=1)
    max_failures: float = Field(default=0.1, ge=0, le=1)
    failure_score: float | None = None
    cache: str | bool = True

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.scale[0] >= self.scale[1]:
            raise ValueError(f"scale must be [lowest, highest], got {list(self.scale)}")
        if self.rubric is None and self.rubric_file is None and not self.principles:
            raise ValueError("say what makes a text good: rubric, rubric_file or principles")
        if self.rubric is not None and self.rubric_file is not None:
            raise ValueError("give rubric or rubric_file, not both")
        if self.url is not None:
            parts = urlsplit(self.url)
            if parts.username or parts.password:
                raise ValueError("url has a password: name the variable of a key, api_key_env, and leave it out")
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"url={self.url!r}: expected an address such as https://api.example.org/v1")
            if parts.query or parts.fragment:
                raise ValueError(f"url={self.url!r}: nothing after the path is sent, leave out what begins with ? or #")
        if self.api_key_env is not None:
            self._check_key()
        return self

    def _check_key(self) -> None:
        assert self.api_key_env is not None
        if not KEY_NAME.fullmatch(self.api_key_env):
            raise ValueError(
                f"api_key_env={self.api_key_env!r}: expected the name of an environment variable that ends in _API_KEY"
            )
        if self.url is None:
            raise ValueError("api_key_env is for a server: give its url")
        parts = urlsplit(self.url)
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ValueError(f"url={self.url!r}: a key is sent over https alone, or to this machine")

    @property
    def called(self) -> str:
        """Return what the judge is called."""
        last = self.model.rstrip("/").rpartition("/")[2]
        return self.name or re.sub(r"[^\w.+-]", "-", last)[:60]

    @property
    def standard(self) -> str:
        """Return the rubric and the principles as the judge reads them."""
        listed = "".join(f"\n{i}. {text.strip()}" for i, text in enumerate(self.principles, 1))
        return "\n\n".join(filter(None, [(self.rubric or "").strip(), listed and f"Principles:{listed}"]))


def read_judge_settings(path: str | Path) -> JudgeSettings:
    """Read a judge's YAML file, with its rubric, and with the place of its cache.

    Raises:
        ValueError: the file is no YAML, or a setting is wrong; the message has the file and the setting.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    content = _read_yaml(path)
    try:
        settings = JudgeSettings.model_validate(content)
    except ValidationError as error:
        first = unknown_first(error.errors(include_url=False))
        if first["type"] == "extra_forbidden":
            hint = nearest_field(JudgeSettings, first["loc"])
            raise ValueError(f"judge {path}: unknown setting {first['loc'][-1]!r}; {hint}") from None
        where = ".".join(map(str, first["loc"]))
        problem = first["msg"].removeprefix("Value error, ")
        about = f"{where}: {problem} (got {first['input']!r:.80})" if where else problem
        raise ValueError(f"judge {path}: {about}") from None
    changes: dict[str, Any] = {}
    if settings.rubric_file is not None:
        file = path.parent / settings.rubric_file
        if not file.resolve().is_relative_to(path.parent.resolve()):
            raise ValueError(f"judge {path}: rubric_file: {settings.rubric_file!r} is not beside the file")
        changes = {"rubric": _read_text(file), "rubric_file": None}
    if settings.cache is not False:
        name = f"{path.name.removesuffix('.yml').removesuffix('.yaml')}.cache.db"
        changes["cache"] = str(path.parent / (name if settings.cache is True else settings.cache))
    return settings.model_copy(update=changes)


def _read_yaml(path: Path) -> Any:
    try:
        content = YAML(typ="safe", pure=True).load(_read_text(path))
    except YAMLError as error:
        raise ValueError(f"judge {path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"judge {path}: expected settings such as 'model: NAME', got {content!r:.80}")
    return content


def _read_text(path: Path) -> str:
    check_size(path, MAX_FILE)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"judge {path}: not UTF-8 ({error})") from error
    if not text.strip():
        raise ValueError(f"judge {path}: the file is empty")
    return text
