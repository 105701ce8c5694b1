"""Typing mistakes and misunderstandings: each is answered in one line that names it and says what to write instead."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agents.cli import app
from agents.training import run

BANDIT = "train --env rlhf/TokenBandit-v0"
REVIEWS = "train --data good.jsonl --column prompt:question"
MISTAKES = {  # what is typed: what the answer names, and what it advises
    "trian": ("trian", "train"),
    "evaluat tiny": ("evaluat", "evaluate"),
    f"{BANDIT} --lr 1e-3": ("--lr", "--learning-rate"),
    f"{BANDIT} --learning_rate 1e-3": ("--learning_rate", "--learning-rate"),
    f"{BANDIT} --timesteps 100": ("--timesteps", "--n-timesteps"),
    f"{BANDIT} --kl-coeff 0.1": ("--kl-coeff", "--kl-coef"),
    f"{BANDIT} --algo pppo": ("pppo", "ppo"),
    f"{BANDIT} --algo recurrent_ppo": ("recurrent_ppo", "take ppo"),
    f"{BANDIT} --algo rlo": ("rlo", "rloo"),
    "train --env Sentiment-v1": ("Sentiment-v1", "rlhf/Sentiment-v0"),
    "train --env Sentiment-v0": ("Sentiment-v0", "rlhf/Sentiment-v0"),
    "train --env rlhf/Sentment-v0": ("Sentment", "rlhf/Sentiment-v0"),
    "train --env rlhf/Sentiment": ("rlhf/Sentiment", "rlhf/Sentiment-v0"),
    "train --env CartPole-v1": ("CartPole-v1", "TextGenerationVectorEnv"),
    "train --env nomodule:my/Env-v0": ("nomodule", "PYTHONPATH"),
    "train --env ./nofile.py:my/Env-v0": ("nofile.py", "there is no file"),
    f"{BANDIT} --learning-rate fast": ("fast", "number"),
    f"{BANDIT} --learning-rate -1": ("-1", "greater than 0"),
    f"{BANDIT} --lr-schedule lineer": ("lineer", "'linear'"),
    f"{BANDIT} --lr-schedule linear -n 90": ("--lr-schedule linear", "larger -n"),
    f"{BANDIT} --algo best_of_n --lr-schedule linear": ("--lr-schedule linear", "--learning-rate"),
    f"{BANDIT} --early-stopping rewrd": ("rewrd", "'reward'"),
    f"{BANDIT} --early-stopping reward --eval-freq 0": ("--early-stopping reward", "--eval-freq above 0"),
    f"{BANDIT} --early-stopping reward --patience 0": ("--patience", "greater than 0"),
    f"{BANDIT} --patience 2": ("--patience 2", "give --early-stopping"),
    f"{BANDIT} --alarm ring": ("ring", "'warn' or 'stop'"),
    f"{BANDIT} --alarm warn": ("--alarm warn", "no judge"),
    f"{BANDIT} --alarm warn --eval-freq 0": ("--alarm warn", "--eval-freq above 0"),
    f"{BANDIT} --alarm stop --early-stopping reward": ("--early-stopping reward", "--alarm warn"),
    f"{BANDIT} --constraint repetition": ("--constraint repetition", "--limit too"),
    f"{BANDIT} --limit 0.1": ("--limit 0.1", "--constraint too"),
    f"{BANDIT} --multiplier-start 2": ("--multiplier-start 2", "give --constraint and --limit too"),
    f"{BANDIT} --constraint repetition --limit 0 --multiplier-step 0": ("--multiplier-step", "greater than 0"),
    f"{BANDIT} --constraint repetitoin --limit 0.1": ("--constraint repetitoin", "'repetition'"),
    f"{BANDIT} --constraint repetition --limit little": ("little", "number"),
    f"{BANDIT} --constraint repetition --limit nan": ("nan", "finite number"),
    f"{BANDIT} --algo ppo_lagrangian --constraint repetition --limit 0": ("ppo_lagrangian", "take --algo ppo"),
    f"{BANDIT} --sft-coef -1": ("-1", "greater than or equal to 0"),
    f"{BANDIT} --sft-coef 1": ("--sft-coef 1.0", "--sft-data"),
    f"{BANDIT} --sft-data none.jsonl": ("--sft-data", "--sft-coef"),
    f"{BANDIT} --sft-data none.jsonl --sft-coef 1": ("none.jsonl", "good.jsonl"),
    f"{BANDIT} --algo trpo --sft-data none.jsonl --sft-coef 1": ("TRPO", "ppo"),
    f"{BANDIT} --algo dqn --sft-data none.jsonl --sft-coef 1": ("sft_coef", "there are:"),
    f"{BANDIT} -n ten": ("ten", "integer"),
    f"{BANDIT} --tokens ten": ("ten", "integer"),
    f"{BANDIT} -n -5": ("-5", "greater than 0"),
    f"{BANDIT} --n-envs 2.5": ("2.5", "integer"),
    f"{BANDIT} --seed abc": ("abc", "integer"),
    f"{BANDIT} --seed 10000000000": ("10000000000", "less than"),
    f"{BANDIT} -params seed:3": ("seed", "--seed 3"),
    f"{BANDIT} --test-split tets": ("tets", "'test'"),
    f"{BANDIT} --verbose 5": ("5", "less than or equal to 2"),
    f"{BANDIT} --device gpu": ("gpu", "auto"),
    f"{BANDIT} --settings none.yml": ("none.yml", "No such file"),
    f"{BANDIT} --config none.toml": ("none.toml", "No such file"),
    f"{BANDIT} --dry-run --resume logs/none": ("logs/none", "leave one of them out"),
    f"{BANDIT} --resume logs/none": ("logs/none", "no config.json"),
    f"{BANDIT} --train 9": ("9", "0 to 2"),
    f"{BANDIT} --train al": ("al", "'full'"),
    f"{BANDIT} -params n_epochs:three": ("three", "a whole number"),
    f"{BANDIT} -params n_epochs:2.5": ("2.5", "a whole number"),
    f"{BANDIT} -params n_epoch:3": ("n_epoch", "n_epochs"),
    f"{BANDIT} -params n_epochs=3": ("n_epochs=3", "n_epochs:3"),
    f"{BANDIT} -params clip_range:big": ("big", "a number"),
    f"{BANDIT} -params gamma:2": ("gamma=2", "from 0 to 1"),
    f"{BANDIT} -params gae_lambda:x": ("'x'", "a number"),
    f"{BANDIT} -params temperature:hot": ("hot", "a number"),
    f"{BANDIT} -params temperature:0": ("temperature=0", "above 0"),
    f"{BANDIT} -params top_k:many": ("many", "a whole number"),
    f"{BANDIT} -params ent_coef:lots": ("lots", "a number"),
    f"{BANDIT} -params n_steps:0": ("n_steps=0", "at least 1"),
    f"{BANDIT} -params batch_size:1": ("batch_size=1", "at least"),
    f"{BANDIT} -params bf16:maybe": ("maybe", "true or false"),
    f"{BANDIT} -params dtype:float16": ("float16", "'bfloat16'"),
    f"{BANDIT} -params dtype:bfloat16": ("dtype='bfloat16'", "take --train 'lora'"),
    f"{BANDIT} -params attn_implementation:fast": ("'fast'", "eager, sdpa"),
    f"{BANDIT} --algo grpo -params group_size:1": ("group_size=1", "at least 2"),
    f"{BANDIT} --env-kwargs max_new_token:8": ("max_new_token", "max_new_tokens"),
    f"{BANDIT} --env-kwargs max_new_tokens:eight": ("eight", "whole number"),
    f"{BANDIT} --env-kwargs reward:3": ("--reward 3", "token-bandit"),
    f"{BANDIT} --env-kwargs reward_kwargs:3": ("reward_kwargs=3", "'name': value"),
    f"{BANDIT} --env-kwargs reward_timeout:long": ("'long'", "seconds above 0"),
    f"{BANDIT} --env-kwargs data:3": ("--data 3", "a file"),
    f"{BANDIT} --env-kwargs max_new_tokens=8": ("max_new_tokens=8", "max_new_tokens:8"),
    "train --model gpt2": ("gpt2", "organisation/name"),
    "train --model tinny": ("tinny", "tiny"),
    "train --model smolm2": ("smolm2", "smollm2"),
    "train --model ./models/none": ("./models/none", "does not exist"),
    "train --data none.jsonl": ("none.jsonl", "neither a file"),
    "train --data god.jsonl": ("god.jsonl", "did you mean 'good.jsonl'?"),
    "train --data bad.jsonl": ("bad.jsonl:2", "not JSON"),
    "train --data nameless.jsonl": ("nameless.jsonl", "rename one with --column prompt:NAME"),
    "sft good.jsonl out --max-length 2000": ("--max-length 2000", "reads 2 to"),
    f"{REVIEWS} --column prompt:questions": ("questions", "question"),
    f"{REVIEWS} --reward tiny-rewrd": ("tiny-rewrd", "tiny-reward"),
    f"{REVIEWS} --reward my_reward:scor": ("scor", "'score'"),
    f"{REVIEWS} --reward my_reward.score": ("my_reward.score", "my_reward:score"),
    f"{REVIEWS} --reward ./my_reward.py": ("./my_reward.py", "./my_reward.py:score"),
    f"{REVIEWS} --reward my_rewrd:score": ("my_rewrd", "did you mean 'my_reward'?"),
    f"{REVIEWS} --reward per_text:score": ("score(completion)", "def score(prompts, completions, **columns)"),
    f"{REVIEWS} --reward needs_word:score": ("'score' needs the column 'word'", "no columns but the prompt"),
    f"{REVIEWS} --reward ./my_reward.py:scor": ("scor", "'score'"),
    f"{REVIEWS} --reward ./none.py:score": ("none.py", "there is no file"),
    f"{REVIEWS} --reward nomodule:score": ("nomodule", "PYTHONPATH"),
    f"{REVIEWS} --reward needs_more:score": ("needs_more", "nothing_like_this"),
    f"{REVIEWS} --reward raises:score": ("raises", "line 1 of"),
    f"{REVIEWS} --reward not_python:score": ("not_python", "not valid Python"),
    f"{REVIEWS} --reward my_reward:score --env-kwargs split:trian": ("trian", "train"),
    "evaluate logs/none": ("logs/none", "there is no folder"),
    "evaluate tinyy": ("tinyy", "tiny"),
    "evaluate tiny --judge golld -n 4": ("golld", "gold"),
    "evaluate tiny --temperature -1": ("-1", "greater than 0"),
    "evaluate tiny --top-p 2": ("2", "less than or equal to 1"),
    "evaluate tiny --split tets -n 4": ("tets", "test"),
    "evaluate tiny -o nodir/x.json": ("nodir/x.json", "no folder"),
    "attack tiny --attack embedings": ("embedings", "embeddings"),
    "compare --algos ppo,rlo --env rlhf/TokenBandit-v0": ("rlo", "rloo"),
    "compare --algos PPO --env rlhf/TokenBandit-v0 --metric rewrd": ("rewrd", "'reward'"),
    "compare --algos ppo --env rlhf/TokenBandit-v0 -params n_epochs:three": ("three", "a whole number"),
    "tune --env rlhf/TokenBandit-v0 -params n_epochs:three": ("three", "a whole number"),
    "compare --config none.toml": ("none.toml", "No such file"),
    "compare -n x": ("x", "integer"),
    "compare --seeds x": ("x", "integer"),
    "tune --algo pppo": ("pppo", "ppo"),
    "loop --env rlhf/Sentment-v0": ("Sentment", "rlhf/Sentiment-v0"),
    "reward fit none.jsonl out": ("none.jsonl", "neither a file"),
    "reward fit good.jsonl out --train ²": ("²", "a number of last blocks"),
    "feedback add none.jsonl": ("none.jsonl", "there is no file"),
    "pretrain moviereviews out": ("moviereviews", "movie-reviews"),
    "sft good.jsonl out --on-long-completion drp": ("drp", "'drop'"),
    "algos pppo": ("pppo", "ppo"),
    "rewards golld": ("golld", "gold"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with a user's files, where an evaluation before training is nothing, and training fails."""
    (tmp_path / "nameless.jsonl").write_text('{"words": "the film"}\n' * 20, encoding="utf-8")
    (tmp_path / "good.jsonl").write_text('{"question": "the film"}\n' * 20, encoding="utf-8")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "the film"}\n{"prompt": \n', encoding="utf-8")
    score = "def score(prompts, completions, **columns):\n    return [0.0] * len(prompts)\n"
    (tmp_path / "my_reward.py").write_text(score, encoding="utf-8")
    (tmp_path / "needs_more.py").write_text(f"import nothing_like_this\n{score}", encoding="utf-8")
    (tmp_path / "raises.py").write_text(f"undefined.name = 1\n{score}", encoding="utf-8")
    (tmp_path / "per_text.py").write_text("def score(completion):\n    return 0.0\n", encoding="utf-8")
    (tmp_path / "needs_word.py").write_text(score.replace("**", "word, **"), encoding="utf-8")
    (tmp_path / "not_python.py").write_text("def score(:\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(run, "evaluate_held_out", lambda *_: None)
    monkeypatch.setattr(run, "train", lambda _: pytest.fail("the mistake was not found before training"))
    yield tmp_path
    for module in ("my_reward", "per_text", "needs_word"):
        sys.modules.pop(module, None)


def rlhf(command: str) -> Any:
    return CliRunner().invoke(app, shlex.split(command), env={"COLUMNS": "200"})


def test_there_are_enough_mistakes() -> None:
    assert len(MISTAKES) >= 60


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_answered_in_one_line_with_the_value_and_the_fix(command: str) -> None:
    value, fix = MISTAKES[command]
    result = rlhf(command)
    assert isinstance(result.exception, SystemExit) and result.exit_code == 2, result.exception
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("rlhf: ")]
    assert value in line and fix in line.replace(value, "", 1), line
    assert "Traceback" not in result.output


def test_what_fits_into_no_memory_is_answered_in_one_line() -> None:
    result = rlhf(f"{BANDIT} --no-progress --env-kwargs max_new_tokens:1000000000000 -n 10000000000000")
    assert result.exit_code == 1
    assert "rlhf: Unable to allocate" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "--algo PPO",
        "-n 100k",
        "-n 1M",
        "-n 1e4",
        "--learning-rate 1e-4",
        "--reward TOKEN-BANDIT",
        "--reward my_reward:score",
        "--reward ./my_reward.py:score",
        "--env-kwargs reward:my_reward:score",
        "--env rlhf/tokenbandit-v0",
    ],
)
def test_what_is_meant_is_understood(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[Any] = []
    monkeypatch.setattr(run, "train", prepared.append)
    rlhf(f"{BANDIT} --no-progress {arguments}")
    assert len(prepared) == 1
    config = prepared[0].config
    assert (config.algo, config.env) == ("ppo", "rlhf/TokenBandit-v0")
    if arguments.startswith("-n"):
        assert config.n_timesteps == {"100k": 100_000, "1M": 1_000_000, "1e4": 10_000}[arguments.split()[1]]


def test_a_batch_follows_the_environments_aloud(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[Any] = []
    monkeypatch.setattr(run, "train", prepared.append)
    rlhf(f"{BANDIT} --n-envs 8")
    assert prepared[0].config.hyperparams["batch_size"] == 192 * 8 // 256 == prepared[0].agent.batch_size
    assert "n_envs=8 instead of 256: batch_size is 6 instead of 192; -params batch_size:192 keeps it" in caplog.text
