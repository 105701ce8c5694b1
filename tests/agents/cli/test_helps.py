"""The help of all verbs: a flag that a text names is there to be typed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from agents.cli import app

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def verbs(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from verbs(inner, (*words, name))
    else:
        yield " ".join(words), command


VERBS = dict(verbs(typer.main.get_command(app)))
FLAGS = {
    verb: {"--help", *(flag for one in command.params for flag in (*one.opts, *one.secondary_opts))}
    for verb, command in VERBS.items()
}


def wrong_flags(verb: str, text: str) -> list[str]:
    """Return the flags in a text that neither the verb has nor the one that the text names before them."""
    wrong = []
    for found in FLAG.finditer(text):
        named = re.findall(r"rlhf ([a-z-]+(?: [a-z-]+)?)", text[: found.start()])
        words = named[-1].split() if named else []
        owners = [" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in FLAGS]
        if found[0] not in FLAGS[verb] | (FLAGS[owners[0]] if owners else set()):
            wrong.append(found[0])
    return wrong


@pytest.mark.parametrize("verb", VERBS)
def test_each_flag_that_a_help_text_names_is_of_this_verb_or_of_the_verb_named_with_it(verb: str) -> None:
    command = VERBS[verb]
    texts = [command.help or "", *(getattr(one, "help", None) or "" for one in command.params)]
    assert [(flag, text) for text in texts for flag in wrong_flags(verb, text)] == []


def test_a_flag_of_another_verb_is_seen() -> None:
    assert wrong_flags("self-train", "--alarm goes by the first") == ["--alarm"]
    assert wrong_flags("self-train", "as of rlhf train --alarm, or --no-such") == ["--no-such"]
    assert wrong_flags("mask", "what rlhf feedback export --format sft wrote, to -o or --output") == []
