"""Define the short flags for conversations, data and rewards, which become arguments of the environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, model_validator

from rlhf_envs.datasets.templates import read_template

from .fields import Pairs, option, parse_pairs

__all__ = ["ChatFlags", "ChatOptions", "DataFlags"]


class ChatOptions(BaseModel):
    """Hold the flags for conversations, which mean the same in every verb."""

    chat: bool = option(False, "Take prompts as what a user says, in the model's chat template.")
    system_prompt: str | None = option(None, "System message of conversations that have none.")
    chat_template: str | None = option(
        None, "File of a chat template, instead of the model's; or 'roles', for lines such as 'User: Hello'."
    )
    chat_template_kwargs: Pairs = option({}, "Variable of the chat template: enable_thinking:false; repeat the flag.")


class ChatFlags(ChatOptions):
    """Hold the flags for conversations. They become arguments of the environment."""

    @model_validator(mode="before")
    @classmethod
    def _fold(cls, values: dict[str, Any]) -> dict[str, Any]:
        return cls.fold(values)

    @classmethod
    def fold(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the settings with the flags among them moved into `env_kwargs`, and the text in place of a file."""
        values = dict(values)
        short = {name: values.pop(name, None) for name in ChatOptions.model_fields}
        short["chat_template_kwargs"] = parse_pairs(short["chat_template_kwargs"])
        if short["chat_template"] is not None:
            short["chat_template"] = read_template(short["chat_template"])
        return _moved(values, {name: value for name, value in short.items() if value})


class DataFlags(ChatFlags):
    """Hold the short flags for the user's own data and reward. They become arguments of the environment.

    Attributes:
        own_environment: the environment that data makes unless one is named; None if the verb knows another.
    """

    own_environment: ClassVar[str | None] = "rlhf/Prompts-v0"

    data: str | None = option(
        None, "File of prompts (.jsonl, .csv, .tsv, .json, .parquet, .txt), for rlhf/Prompts-v0 unless --env is given."
    )
    reward: str | None = option(None, "Reward: a registered name, a folder, my_module:score or my_file.py:score.")
    column: Pairs = option({}, "Column to rename: prompt:question takes `question` as the prompt; repeat.")

    @classmethod
    def fold(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the settings with the short flags among them moved into `env_kwargs`."""
        values = super().fold(values)
        short = {name: values.pop(name) for name in ("data", "reward") if values.get(name) is not None}
        if columns := parse_pairs(values.pop("column", None)):
            short["columns"] = {new: str(old) for new, old in columns.items()}
        values = _moved(values, short)
        if "data" in short and cls.own_environment is not None and not {"config", "resume"} & values.keys():
            values.setdefault("env", cls.own_environment)
        return values


def _moved(values: dict[str, Any], short: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with more arguments of the environment."""
    return {**values, "env_kwargs": {**parse_pairs(values.get("env_kwargs") or {}), **short}} if short else values
