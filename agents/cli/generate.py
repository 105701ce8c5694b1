"""Run the commands `rlhf generate` and `rlhf chat`: try what was trained."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from rich.console import Console
from rich.text import Text

from rlhf_envs import privacy
from rlhf_envs.datasets.loading import load_rows
from rlhf_envs.files import to_json
from rlhf_envs.rendering import printable
from rlhf_envs.rewards import MissingColumnError

from ..training.data_flags import ChatFlags
from ..training.fields import Pairs, option
from . import tables
from .options import Flags, argument, fail

if TYPE_CHECKING:
    from rlhf_envs.privacy import MaskStream

    from ..evaluation.generate import Completion

__all__ = ["ChatConfig", "DecodingFlags", "GenerateConfig", "chat", "generate"]


class DecodingFlags(Flags):
    """Hold the flags that say how tokens are drawn, which `rlhf evaluate`, `rlhf generate` and `rlhf chat` share."""

    deterministic: bool = option(False, "Take the most probable token.")
    temperature: float | None = option(None, "Divides the logits. The run's own, or 1.", gt=0)
    top_k: int | None = option(None, "Draw from the k most probable tokens.", ge=1)
    top_p: float | None = option(None, "Draw from the smallest set of this probability.", gt=0, le=1)
    max_new_tokens: int | None = option(None, "Room for a completion, in tokens. The run's own, or the task's.", gt=0)

    def decoding(self) -> dict[str, Any]:
        """Return temperature, top_k and top_p by name; None where the source's own counts."""
        return self.model_dump(include={"temperature", "top_k", "top_p"})


class GenerateConfig(ChatFlags, DecodingFlags):
    """Hold the flags of `rlhf generate`."""

    source: str = argument("Run folder, bundle, model name or folder, hub id, or SB3 zip.")
    prompts: list[str] = Field(
        default=[],
        description="Prompts to complete; without any, one per line of standard input.",
        json_schema_extra={"argument": True},
    )
    file: str | None = option(
        None,
        "File of prompts: one per line in a .txt, or the column `prompt` of .jsonl, .json, .csv, .tsv or .parquet, "
        "whose other columns a reward may read.",
    )
    n: int = option(1, "Completions per prompt.", "-n", gt=0)
    env: str | None = option(None, "Environment id whose reward scores the completions. They are not scored without.")
    reward: str | None = option(None, "Reward that scores them: a registered name, a folder, or my_module:my_reward.")
    env_kwargs: Pairs = option({}, "Arguments of the environment; repeat the flag.")
    seed: int = option(0, "Seeds the sampling.", ge=0)
    trust: bool = option(False, "Load an SB3 zip: it holds pickles, which can run code.")
    json_lines: bool = option(False, "Print one JSON object per completion.", "--json")
    mask_private: bool = option(False, "Replace private data, such as e-mail addresses, in what is printed.")


def generate(config: GenerateConfig) -> None:
    """Complete prompts of your own, and print the completions.

    A run or a bundle decodes as it was trained: with its temperature, its top_k and top_p, and its length. A prompt may
    be a conversation in a file: a list of messages.
    """
    prompts = [*_prompts(config)]
    if not prompts:
        fail(f"no prompts: rlhf generate {config.source} 'The film was', or give --file or standard input")
    masker = privacy.Masker() if config.mask_private else None
    _hide_progress()
    from ..evaluation.generate import generate as run

    reward = {} if config.reward is None else {"reward": config.reward}
    try:
        completions = run(
            config.source,
            config.env,
            prompts=prompts,
            env_kwargs={**config.env_kwargs, **reward},
            **config.model_dump(include={"n", "seed", "trust", "deterministic", "max_new_tokens"}),
            **config.decoding(),
        )
    except MissingColumnError as error:
        if not config.prompts:
            raise
        fail(f"{error}; a typed prompt has no columns: put prompts with their columns into a file, and give --file")
    console = Console(highlight=False)
    for done in completions:
        if masker is not None:
            done = replace(done, **{name: masker.mask_all(getattr(done, name)) for name in _TEXTS})
        if config.json_lines:
            print(to_json(_as_json(done), ensure_ascii=False))
        else:
            console.print(tables.sample_text(done), soft_wrap=True)


_TEXTS = ("prompt", "completion", "messages", "turns")


def _prompts(config: GenerateConfig) -> Iterator[Any]:
    yield from config.prompts
    if config.file is not None:
        yield from load_rows(config.file)  # with the columns that a reward may read
    elif not config.prompts and not sys.stdin.isatty():
        yield from filter(str.strip, sys.stdin.read().splitlines())


def _as_json(done: Completion) -> dict[str, Any]:
    scores = {"reward": done.reward, "reward_components": done.components} if done.components else {}
    return {"prompt": done.asked, "completion": done.answered, "finish_reason": done.finish_reason} | scores


class ChatConfig(DecodingFlags):
    """Hold the flags of `rlhf chat`."""

    source: str = argument("Run folder, bundle, model name or folder, hub id, or SB3 zip.")
    style: Literal["template", "roles", "plain"] | None = option(
        None,
        "template: the model's chat template; roles: lines 'User: ...' and 'Assistant: ...'; plain: the model goes on "
        "with the text. The template if there is one, else plain.",
    )
    system_prompt: str | None = option(None, "System message that the conversation begins with.")
    chat_template: str | None = option(
        None, "File of a chat template, instead of the model's; or 'roles', for lines such as 'User: Hello'."
    )
    chat_template_kwargs: Pairs = option({}, "Variable of the chat template: enable_thinking:false; repeat the flag.")
    seed: int = option(0, "Seeds the sampling.", ge=0)
    env_kwargs: Pairs = option({}, "Arguments of the environment; repeat the flag.")
    trust: bool = option(False, "Load an SB3 zip: it holds pickles, which can run code.")
    mask_private: bool = option(False, "Replace private data, such as e-mail addresses, in the answers shown.")


HELP = "/help lists the commands, /reset forgets the conversation, /quit or Ctrl-D ends it"
EMPTY = "(empty answer; /reset forgets the conversation)"


def chat(config: ChatConfig) -> None:
    """Talk with what was trained: what you write is a turn, and the model answers.

    A model without a chat template goes on with all the text so far; after it has ended a text, you begin a new one. In
    a terminal the answer appears as it is written, and Ctrl-C ends it. /help lists the commands.
    """
    _hide_progress()
    console, masker = Console(highlight=False), privacy.Masker() if config.mask_private else None
    with console.status("loading"):
        from ..evaluation.chat import Chat

        form = {"env_kwargs", "chat_template", "chat_template_kwargs"}
        given = config.model_dump(exclude={"temperature", "top_k", "top_p", "mask_private", *form})
        given |= ChatFlags.fold(config.model_dump(include=form))
        talk = Chat(**given, decoding=config.decoding())
        talk.load()
    console.print(f"{talk.source.name}, {talk.style}: {HELP}", style="dim", markup=False)
    for text in _turns():
        if text == "/reset":
            talk.reset()
        elif text == "/help":
            console.print(HELP, style="dim", markup=False)
        elif text.startswith("/"):
            console.print(f"unknown command {text}: {HELP}", style="dim", markup=False)
        elif console.is_terminal:
            with _Streamed(console, None if masker is None else masker.stream()) as shown:
                talk.say(text, shown)
        else:
            answer = talk.say(text)
            answer = answer if masker is None else masker.mask(answer)
            console.print(printable(answer) if answer.strip() else EMPTY, markup=False, soft_wrap=True)


class _Streamed:
    """Print an answer as it comes. Ctrl-C ends the answer; a second one, while the model still computes, the chat."""

    def __init__(self, console: Console, masks: MaskStream | None = None) -> None:
        self.console, self.text, self.printed, self.stopped = console, "", "", False
        self.masks = masks  # holds back what may still be private data

    def __enter__(self) -> _Streamed:
        self._handler = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._handler)
        if self.masks is not None:
            self._show(self.masks.close())
        self.console.print("" if self.printed.strip() else Text(EMPTY, style="dim"))

    def _stop(self, *signal_and_frame: object) -> None:
        if self.stopped:
            raise SystemExit(128 + signal.SIGINT)
        self.stopped = True

    def __call__(self, new: str) -> None:
        """Print what is new. The joiners of an emoji wait for what they join."""
        self._show(new if self.masks is None else self.masks.feed(new))
        if self.stopped:
            self.stopped = False
            raise KeyboardInterrupt

    def _show(self, new: str) -> None:
        self.text += new
        shown = printable(self.text.rstrip("\u200d\ufe0f"))
        self.console.print(Text(shown.removeprefix(self.printed), style="bold"), end="", soft_wrap=True)
        self.printed = shown


def _turns() -> Iterator[str]:
    """Yield what the user writes until /quit, Ctrl-D or Ctrl-C."""
    if sys.stdin.isatty():
        import readline  # noqa: F401  # gives `input` line editing and a history
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if text in ("/quit", "/exit"):
            return
        if text:
            yield text


def _hide_progress() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
