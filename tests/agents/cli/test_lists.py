"""`rlhf algos`, `rlhf rewards` and `rlhf models` tell what the flags take; shells complete the names."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from agents.cli import app
from agents.cli.options import COMPLETIONS
from agents.registry import available
from rlhf_envs.models import EMBEDDED, NAMES, resolve
from rlhf_envs.rewards import list_rewards


def rlhf(*arguments: str) -> Any:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    return result.output


def test_all_names_are_listed_with_a_sentence() -> None:
    for verb, names in (("algos", available()), ("rewards", list_rewards()), ("models", NAMES)):
        lines = [line.split(maxsplit=1) for line in rlhf(verb).splitlines()]
        assert {*names} <= {words[0] for words in lines if len(words) == 2}, verb
    assert {*EMBEDDED} <= {*NAMES} and all(resolve(name) for name in EMBEDDED)


@pytest.mark.parametrize(
    ("algo", "argument", "default", "meaning"),
    [
        ("ppo", "n_epochs", "4", "a whole number: Number of epoch when optimizing the surrogate loss"),
        ("ppo", "temperature", "1.0", "a number: "),
        ("PPO", "kl_coef", "", "a number"),
        ("grpo", "group_size", "", "a whole number"),
    ],
)
def test_the_arguments_of_an_algorithm_have_defaults_types_and_meaning(
    algo: str, argument: str, default: str, meaning: str
) -> None:
    output = rlhf("algos", algo)
    (line,) = [line for line in output.splitlines() if line.split()[:1] == [argument]]
    assert default in line and meaning in line
    assert "_init_setup_model" not in output and "use_sde" not in output


def test_the_arguments_of_a_reward_are_its_signature_and_docstring() -> None:
    output = rlhf("rewards", "length-penalty")
    assert "longest=None, shortest=0" in output and "longest: the greatest length" in output


def test_help_groups_the_options_and_can_install_completion() -> None:
    text = rlhf("train", "--help")
    for panel in ("Task and data", "Agent", "Evaluation", "Files and logs", "Machine"):
        assert f"─ {panel} ─" in text
    assert "--install-completion" in rlhf("--help")


def test_shells_complete_names_in_any_case() -> None:
    assert COMPLETIONS["algo"]("P") == ["ppo", "ppo_lagrangian"]
    assert "rlhf/Sentiment-v0" in COMPLETIONS["env"]("rlhf/S")
    assert COMPLETIONS["model"]("ti") == ["tiny", "tiny-reward", "tiny-vision"]
