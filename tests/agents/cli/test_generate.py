"""The commands `rlhf generate` and `rlhf chat`."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from agents import generate
from agents.cli import app
from agents.cli.generate import EMPTY, _Streamed
from agents.evaluation.chat import Chat
from rlhf_envs.privacy import Masker

SHORT = ("--max-new-tokens", "6")


def rlhf(*arguments: str, stdin: str | None = None) -> Any:
    return CliRunner().invoke(app, list(arguments), input=stdin, env={"COLUMNS": "200"})


def test_prompts_are_completed_as_in_python() -> None:
    result = rlhf("generate", "tiny", "the film", "a story", "-n", "2", "--seed", "5", "--temperature", "0.7", *SHORT)
    done = generate("tiny", prompts=["the film", "a story"], n=2, seed=5, temperature=0.7, max_new_tokens=6)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [c.prompt + c.completion for c in done]


def test_json_has_one_object_per_completion_and_a_score_where_a_reward_is_named() -> None:
    result = rlhf("generate", "tiny", "the film", "--json", "--reward", "tiny-reward", *SHORT)
    (row,) = map(json.loads, result.stdout.splitlines())
    assert row["prompt"] == "the film"
    assert row["reward"] == row["reward_components"]["tiny-reward"] != 0
    (row,) = map(json.loads, rlhf("generate", "tiny", "the film", "--json", *SHORT).stdout.splitlines())
    assert sorted(row) == ["completion", "finish_reason", "prompt"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "the film\n\na story\n"),
        ("p.jsonl", '{"prompt": "the film"}\n{"prompt": "a story"}\n'),
        ("p.csv", "prompt,label\nthe film,1\na story,0\n"),
        (None, "the film\na story\n"),
    ],
)
def test_prompts_come_from_a_file_or_standard_input(name: str | None, text: str, tmp_path: Path) -> None:
    if name is None:
        result = rlhf("generate", "tiny", "--json", *SHORT, stdin=text)
    else:
        (tmp_path / name).write_text(text)
        result = rlhf("generate", "tiny", "--file", str(tmp_path / name), "--json", *SHORT)
    assert [json.loads(line)["prompt"] for line in result.stdout.splitlines()] == ["the film", "a story"]


def test_private_data_is_masked_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("phonenumbers")
    result = rlhf("generate", "tiny", "mail ann@x.org now", "--json", "--mask-private", *SHORT)
    assert json.loads(result.stdout)["prompt"] == "mail [EMAIL] now"
    monkeypatch.setattr(Chat, "say", lambda *_: "ask ann@x.org")
    assert rlhf("chat", "tiny", "--mask-private", stdin="who?\n").stdout.splitlines()[1] == "ask [EMAIL]"


def test_a_streamed_answer_is_masked_at_the_border_of_pieces() -> None:
    pytest.importorskip("phonenumbers")
    console = Console(file=io.StringIO())
    with _Streamed(console, Masker(kinds=["email"]).stream()) as shown:
        for piece in ("ask ann", "@x.o", "rg now, ", "or bob@", "y.org"):
            shown(piece)
    assert console.file.getvalue() == "ask [EMAIL] now, or [EMAIL]\n"  # type: ignore[attr-defined]


def test_control_codes_of_a_model_are_shown_and_not_obeyed() -> None:
    result = rlhf("generate", "tiny", "a \x1b[31mred film", *SHORT)
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "tiny"), "no prompts: rlhf generate tiny 'The film was'"),
        (("generate", "nothing", "a"), "unknown model 'nothing'"),
        (("generate", "tiny", "a", "--file", "no.txt"), "no.txt"),
        (("generate", "tiny", "a", "--env", "rlhf/Nothing-v0"), "unknown environment"),
        (("chat", "tiny", "--style", "template"), "tiny has no chat template"),
        (("chat", "nothing"), "unknown model 'nothing'"),
    ],
)
def test_a_users_mistake_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = rlhf(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("file", [(), ("--file", "rows.jsonl")])
def test_a_typed_prompt_has_no_columns_for_a_reward(
    file: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor if a file beside it has some. A file alone is scored."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "rows.jsonl").write_text('{"prompt": "the film", "word": "film"}\n')
    reward = "def score(prompts, completions, word, **columns):\n    return [float(len(w)) for w in word]\n"
    (tmp_path / "needs_word.py").write_text(reward)
    own = ("--reward", "./needs_word.py:score", "--json", *SHORT)
    result = rlhf("generate", "tiny", "a story", *file, *own)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert "reward 'score' needs the column 'word'" in result.stderr
    assert "a typed prompt has no columns: put prompts with their columns into a file, and give --file" in result.stderr
    if file:
        (row,) = map(json.loads, rlhf("generate", "tiny", *file, *own).stdout.splitlines())
        assert row["reward"] == 4.0


def test_a_chat_goes_on_until_it_is_ended() -> None:
    turns = "the film was\n\n/help\n/nonsense\n/reset\nthe film was\n/quit\nnot read\n"
    result = rlhf("chat", "tiny", "--deterministic", *SHORT, stdin=turns)
    assert result.exit_code == 0, result.output
    first, commands, unknown, again = result.stdout.splitlines()[1:]
    (done,) = generate("tiny", prompts="the film was", deterministic=True, max_new_tokens=6)
    assert first == again == done.completion
    assert commands.startswith("/help lists the commands, /reset") and commands.endswith("/quit or Ctrl-D ends it")
    assert unknown.startswith("unknown command /nonsense")
    assert rlhf("chat", "tiny", *SHORT, stdin="a film\n").exit_code == 0, "the end of the input ends it"


@pytest.mark.parametrize("folder", ["ppo", "."])
def test_a_folder_of_runs_is_refused_and_names_them(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / "ppo" / name / "model").mkdir(parents=True)
        (tmp_path / "ppo" / name / "config.json").write_text('{"algo": "ppo", "env": "rlhf/Sentiment-v0"}')
    for verb in ("chat", "generate"):
        result = rlhf(verb, folder, *["the film was"] * (verb == "generate"), stdin="the film was\n")
        assert result.exit_code == 2 and not result.stdout, "before the greeting"
        assert f"{folder} is a folder of runs: give one of them, ppo/one, ppo/two" in result.stderr


def test_an_empty_answer_is_said_to_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chat, "say", lambda *_: " ")
    assert rlhf("chat", "tiny", stdin="the film was\n").stdout.splitlines()[1] == EMPTY
    console = Console(file=io.StringIO())
    with _Streamed(console) as shown:
        shown("")
    assert console.file.getvalue() == f"{EMPTY}\n"  # type: ignore[attr-defined]


def test_a_chat_is_written_in_the_template_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }} {% endfor %}"
    (tmp_path / "mine.jinja").write_text(template)
    asked: list[Any] = []

    def answer(self: Chat, prompt: Any) -> str:
        asked.append((self.env_kwargs["chat_template"], [message["content"] for message in prompt]))
        return "yes"

    monkeypatch.setattr(Chat, "_complete", answer)
    own = ("--chat-template", str(tmp_path / "mine.jinja"))
    result = rlhf("chat", "tiny", *own, "--system-prompt", "be kind", stdin="hi\n")
    assert "yes" in result.stdout.splitlines(), result.output
    assert asked == [(template, ["be kind", "hi"])]
    assert "no such option: --system; did you mean '--system-prompt'?" in rlhf("chat", "tiny", "--system", "x").output


def test_in_a_terminal_an_answer_appears_piece_by_piece() -> None:
    console = Console(file=io.StringIO(), width=10)
    with _Streamed(console) as shown:
        for piece in ("the film ", "", "was \x1b[2J", "👩\u200d", "🚀 longer than the terminal"):
            shown(piece)
    text = "the film was \\x1b[2J👩\u200d🚀 longer than the terminal\n"
    assert console.file.getvalue() == text  # type: ignore[attr-defined]


def test_ctrl_c_ends_the_answer_after_the_token_under_way() -> None:
    before = signal.getsignal(signal.SIGINT)
    with _Streamed(Console(file=io.StringIO())) as shown:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            shown("the")
        shown(" film")
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(SystemExit, match="130"):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
