from __future__ import annotations

import csv
import inspect
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import render
from typer.testing import CliRunner

from agents.cli import app
from agents.cli.options import user_errors
from agents.cli.pretrain import PretrainConfig
from agents.cli.tables import LABELS, make_table
from agents.training.config import TrainConfig
from agents.training.errors import RunInterrupted, RunStopped
from agents.training.fields import parse_pairs
from agents.training.hyperparams import default_hyperparams
from agents.training.pretrain import pretrain
from agents.training.report import plot_curves
from agents.training.run import train
from rlhf_envs.tasks.results import gain_of, read_results

BANDIT = "rlhf/TokenBandit-v0"
SMALL = ["--env", BANDIT, "-n", "384", "--n-envs", "32", "--eval-freq", "192", "--save-freq", "192", "--no-progress"]
SMALL += ["--n-eval-episodes", "8", "--test-episodes", "16", "-params", "batch_size:48"]


def rlhf(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    logs = tmp_path_factory.mktemp("cli") / "logs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.training.report.plot_curves", plot_curves)  # with pictures
        result = rlhf("train", *SMALL, "-f", str(logs), "--learning-rate", "0.01")
    assert result.exit_code == 0, result.output
    return logs, result


def test_a_run_fills_its_folder(run: tuple[Path, Any]) -> None:
    folder = run[0] / "ppo" / "TokenBandit-v0_1"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {
        "config.json",
        "progress.csv",
        "evaluations.npz",
        "curves.png",
        "samples.md",
        "report.json",
        "model/README.md",
        "model/config.json",
        "model/generation_config.json",
        "model/model.safetensors",
        "start/model.safetensors",
        "agent/policy.safetensors",
        "agent/manifest.json",
        "checkpoints/192/manifest.json",
        "checkpoints/384/manifest.json",
    } <= files
    assert any(file.startswith("events.out.tfevents") for file in files)


def test_the_configuration_in_the_folder_says_all(run: tuple[Path, Any]) -> None:
    saved = json.loads((run[0] / "ppo" / "TokenBandit-v0_1" / "config.json").read_text())
    assert (saved["algo"], saved["env"], saved["n_timesteps"], saved["n_envs"]) == ("ppo", BANDIT, 384, 32)
    assert saved["learning_rate"] == 0.01
    assert saved["hyperparams"]["batch_size"] == 48
    assert saved["kl_coef"] == default_hyperparams(BANDIT, "ppo")["kl_coef"]
    (made,) = saved.pop("made")
    assert {"versions", "commit", "machine", "threads", "command"} == made.keys()
    assert TrainConfig(**saved).resolved().model_dump() == saved


def test_the_bundle_and_the_checkpoints_say_what_made_them(run: tuple[Path, Any]) -> None:
    folder = run[0] / "ppo" / "TokenBandit-v0_1"
    (made,) = json.loads((folder / "config.json").read_text())["made"]
    for bundle in ("agent", "checkpoints/192"):
        assert json.loads((folder / bundle / "manifest.json").read_text())["made"] == made


def test_progress_evaluations_and_tensorboard_agree_on_the_tokens(run: tuple[Path, Any]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run[0] / "ppo" / "TokenBandit-v0_1"
    with (folder / "progress.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["rlhf/reward"]]
    events = EventAccumulator(str(folder)).Reload()
    assert [int(row["time/total_timesteps"]) for row in rows] == [96, 192, 288, 384]
    assert [event.step for event in events.Scalars("rlhf/kl")] == [96, 192, 288, 384]
    report = json.loads((folder / "report.json").read_text())
    ends = [report[when]["estimates"]["reward"]["mean"] for when in ("before", "after")]
    assert [(e.step, e.value) for e in events.Scalars("held_out/reward")] == [
        (0, pytest.approx(ends[0], rel=1e-5)),
        (384, pytest.approx(ends[1], rel=1e-5)),
    ]
    evaluations = np.load(folder / "evaluations.npz")
    assert evaluations["timesteps"].tolist() == [192, 384]
    assert evaluations["results"].shape == (2, 8)


def test_the_report_and_the_terminal_say_the_same(run: tuple[Path, Any]) -> None:
    logs, result = run
    report = json.loads((logs / "ppo" / "TokenBandit-v0_1" / "report.json").read_text())
    assert report["before"]["estimates"]["kl"]["mean"] == pytest.approx(0.0, abs=1e-5)
    change = report["change"]["reward"]
    assert change["mean"] == pytest.approx(
        report["after"]["estimates"]["reward"]["mean"] - report["before"]["estimates"]["reward"]["mean"]
    )
    assert f"{change['mean']:+.3f} ± {change['sem']:.3f}" in result.output
    assert "reward (proxy)" not in result.output, "no judge stands beside it"
    assert "distinct bigrams, of 16 completions" in result.output
    assert report["after"]["samples"][0]["completion"].strip() in result.output


def test_a_run_folder_can_be_evaluated_and_remembers_its_start(run: tuple[Path, Any], tmp_path: Path) -> None:
    folder = run[0] / "ppo" / "TokenBandit-v0_1"
    result = rlhf("evaluate", str(folder), "-n", "16", "-o", str(tmp_path / "figures.json"))
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    report = json.loads((folder / "report.json").read_text())
    assert figures["env"] == BANDIT
    for name, label in LABELS.items():
        found = figures["estimates"][name]
        assert found["mean"] == pytest.approx(report["after"]["estimates"][name]["mean"], abs=1e-4)
        mean, sem, low, high = (f"{round(found[key], 3) + 0.0:.3f}" for key in ("mean", "sem", "low", "high"))
        label = re.escape(label.replace("{n}", "16"))
        row = rf"{label} +{re.escape(mean)} +{sem} +{re.escape(low)} to {re.escape(high)}\b"
        assert re.search(row, result.output), (row, result.output)


def test_the_next_run_takes_the_next_number(run: tuple[Path, Any]) -> None:
    config = TrainConfig(env=BANDIT, log_folder=str(run[0]))
    assert config.folder().name == "TokenBandit-v0_2"
    assert TrainConfig(env=BANDIT, algo="a2c", log_folder=str(run[0])).folder().name == "TokenBandit-v0_1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "rlhf/Nothing-v0"], "unknown environment 'rlhf/Nothing-v0': "),
        (["--env", "no_module:rlhf/Nothing-v0"], "no_module"),
        (["--algo", "ppoo"], "did you mean 'ppo'"),
        (["--model", "no-such-model"], "unknown model 'no-such-model'"),
        (["--train", "half"], "--train 'half': expected"),
        (["--device", "abacus"], "abacus"),
        (["-n", "0"], "--n-timesteps: Input should be greater than 0"),
        (["--learning-rate", "-1"], "--learning-rate"),
        (["-params", "batch_size"], "no key:value pair"),
        (["-params", "batchsize:64"], "batch_size"),
        (["-n", "2"], "--n-timesteps 2 is less than one episode of 3 tokens"),
        (["-params", "batch_size:2"], "smaller than one episode"),
        (["--env-kwargs", "max_new_tokens:0"], "max_new_tokens"),
        (["--env-kwargs", "reward:nobody"], "unknown reward 'nobody'"),
        (["--kl-coef", "0", "--kl-target", "1"], "start above 0"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    given = arguments if "--env" in arguments else ["--env", BANDIT, *arguments]
    result = rlhf("train", *given, "-f", str(tmp_path / "logs"))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("rlhf: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "logs").exists()


def test_an_existing_run_name_is_an_error_and_left_alone(run: tuple[Path, Any]) -> None:
    folder = run[0] / "ppo" / "TokenBandit-v0_1"
    before = sorted(path.name for path in folder.iterdir())
    result = rlhf("train", *SMALL, "-f", str(run[0]), "--run-name", "TokenBandit-v0_1")
    assert result.exit_code == 2
    assert "exists: choose another --run-name" in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-model"], "unknown model"),
        (["tiny", "--env", "rlhf/Nothing-v0"], "unknown environment"),
        (["tiny", "--judge", "nobody"], "unknown reward"),
        (["tiny", "-n", "1"], "--n-episodes"),
        (["tiny", "-o", "/no/such/folder/figures.json"], "no folder"),
    ],
)
def test_evaluate_names_a_users_mistake(arguments: list[str], message: str) -> None:
    result = rlhf("evaluate", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_envs_lists_every_environment_with_its_sizes() -> None:
    tables = rlhf("envs").output.split(" measured ")
    sizes, measured = ({row[0]: row[1:] for line in table.splitlines() if (row := line.split())} for table in tables)
    assert sizes["rlhf/TokenBandit-v0"] == ["token-bandit", "none", "8", "1", "3"]
    assert sizes["rlhf/Sentiment-v0"] == ["tiny-reward", "tiny", "3072", "16", "32"]
    for env_id, found in read_results().items():
        assert measured[env_id] == [found["metric"], f"{found['before']:.3f}", *gain_of(found).split()]


def test_pretrain_passes_its_flags_on_and_names_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def pretend(**arguments: Any) -> dict[str, float]:
        seen.update(arguments)
        tokens = {"total": 1234, "learned": 1000, "held_out": 34, "left": {"of the test split": 200}}
        return {"loss": 1.0, "perplexity": 2.7, "perplexity_before": 9.0, "tokens": tokens}

    monkeypatch.setattr("agents.training.pretrain.pretrain", pretend)
    result = rlhf("pretrain", "words.txt", str(tmp_path / "lm"), "-n", "7", "--bf16", "--n-layer", "2")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-2:] == [
        f"{tmp_path / 'lm'}: validation loss 1.000, perplexity 2.7 (9.0 before)",
        "1,234 tokens: 1,000 learned, 34 held out; 200 left (of the test split)",
    ]
    assert (seen["source"], seen["steps"], seen["bf16"], seen["n_layer"], seen["resume"]) == (
        "words.txt",
        7,
        True,
        2,
        False,
    )
    monkeypatch.undo()
    result = rlhf("pretrain", "no-such-corpus", str(tmp_path / "lm"))
    assert result.exit_code == 2
    assert "no-such-corpus" in result.stderr


def test_every_argument_of_pretrain_has_a_flag_with_its_default() -> None:
    parameters = inspect.signature(pretrain).parameters
    assert [name if name != "columns" else "column" for name in parameters] == list(PretrainConfig.model_fields)
    for name, parameter in parameters.items():
        if parameter.default is not parameter.empty and name != "columns":
            assert PretrainConfig.model_fields[name].default == parameter.default


@pytest.mark.parametrize("arguments", [["train", "--help"], ["feedback", "add", "-h"], ["--version"], ["envs"]])
def test_help_version_and_envs_are_quick_because_torch_is_not_imported(arguments: list[str]) -> None:
    code = f"import sys; from agents.cli import app\ntry: app({arguments})\n"
    code += "except SystemExit as end: assert not end.code\n"
    code += "print({'torch', 'transformers', 'stable_baselines3', 'optuna', 'sqlalchemy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("verb", [[], ["train"], ["compare"], ["envs"], ["feedback"], ["feedback", "add"], ["reward"]])
def test_h_is_short_for_help(verb: list[str]) -> None:
    short, long = rlhf(*verb, "-h"), rlhf(*verb, "--help")
    assert short.exit_code == 0
    assert short.output == long.output
    assert f"rlhf {' '.join(verb)}".strip() in " ".join(short.output.replace("root", "rlhf").split())


def test_version_names_the_packages_that_matter() -> None:
    packages = ("rlhf-envs", "torch", "transformers", "stable-baselines3", "gymnasium")
    result = rlhf("--version")
    assert result.exit_code == 0
    assert result.output.splitlines()[: len(packages)] == [f"{package} {version(package)}" for package in packages]


@pytest.mark.parametrize(("no_color", "red"), [("", True), ("1", False)])
def test_no_color_is_honoured_by_error_lines(no_color: str, red: bool) -> None:
    result = CliRunner().invoke(app, ["train", "--algo", "ppoo"], color=True, env={"NO_COLOR": no_color})
    assert result.exit_code == 2
    assert result.stderr.startswith("\x1b[31mrlhf: " if red else "rlhf: ")


@pytest.mark.parametrize(
    ("error", "code"),
    [(ValueError, 2), (TypeError, 2), (OSError, 2), (ImportError, 2), (FloatingPointError, 1)],
)
def test_errors_of_a_user_end_the_command_in_one_line(
    error: type[Exception], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught, user_errors():
        raise error("two\nlines")
    assert caught.value.exit_code == code
    assert capsys.readouterr().err == "rlhf: two lines\n"


@pytest.mark.parametrize(("error", "code"), [(RunStopped("it failed"), 1), (KeyboardInterrupt(), 130)])
def test_a_run_that_failed_is_no_mistake_of_a_user(error: BaseException, code: int) -> None:
    with pytest.raises(typer.Exit) as caught, user_errors():
        raise error
    assert caught.value.exit_code == code


@pytest.mark.parametrize("error", [KeyError, RuntimeError, BrokenPipeError])
def test_a_bug_and_a_reader_that_has_gone_are_no_errors_of_a_user(error: type[Exception]) -> None:
    with pytest.raises(error), user_errors():
        raise error("two\nlines")


def test_a_mistake_in_our_own_printing_is_a_bug() -> None:
    rows: Any = 3
    with pytest.raises(TypeError), user_errors():
        make_table(("a",), rows)


def test_a_mistake_in_a_verb_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {"loss": "low", "perplexity": 1.0}
    monkeypatch.setattr("agents.training.pretrain.pretrain", lambda **settings: metrics)
    result = rlhf("pretrain", "source", "output")
    assert isinstance(result.exception, ValueError)
    assert result.exit_code == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_run_says_where_it_is_saved(number: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, user_errors():
        raise RunInterrupted("SIGTERM: saved", number)
    assert caught.value.exit_code == code
    assert capsys.readouterr().out == "SIGTERM: saved\n"


def test_a_table_takes_no_text_for_markup_and_puts_numbers_flush_right() -> None:
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(make_table(("[red]name", "n"), [("[b]a[/b]", "7"), ("b", "1234")], title="[i]t", caption="[c]"))
    lines = [line.strip() for line in console.export_text().splitlines() if line.strip()]
    assert [lines[i].split() for i in (0, 1, 3, 4, 5)] == [
        ["[i]t"], ["[red]name", "n"], ["[b]a[/b]", "7"], ["b", "1234"], ["[c]"]
    ]  # fmt: skip
    assert len(lines[3]) == len(lines[4])


# The configuration


def test_pairs_are_literals_and_never_code() -> None:
    pairs = ["a:1", "b:1e-4", "c:true", "d:None", "e:[1, 2]", "f:x:y", "g:__import__('os').getcwd()", "h:'1'"]
    assert parse_pairs(pairs) == {
        "a": 1, "b": 1e-4, "c": True, "d": None, "e": [1, 2], "f": "x:y", "g": "__import__('os').getcwd()", "h": "1"
    }  # fmt: skip


def test_several_pairs_in_one_text_are_refused_where_texts_with_commas_are_not() -> None:
    with pytest.raises(ValueError, match="'a:1,b:2' has several pairs: give each a flag of its own, a:1 and b:2"):
        parse_pairs(["a:1,b:2"])
    assert parse_pairs(["a:x,y:z", "b:{'c': 1, 'd': 2}", "e:1,2"]) == {"a": "x,y:z", "b": {"c": 1, "d": 2}, "e": (1, 2)}


def test_flags_go_before_pairs_and_pairs_before_the_table() -> None:
    table = default_hyperparams("rlhf/Sentiment-v0", "ppo")
    config = TrainConfig(hyperparams=["kl_target:None", "learning_rate:0.5", "n_envs:3"], learning_rate=0.25).resolved()
    assert (config.learning_rate, config.kl_target, config.n_envs) == (0.25, None, 3)
    assert config.kl_coef == table["kl_coef"]
    assert not {"learning_rate", "kl_target", "n_envs", "n_timesteps"} & set(config.hyperparams)


def test_blocks_are_a_number_and_parts_a_word() -> None:
    assert TrainConfig(train="2").train == 2
    assert TrainConfig(train="head").train == "head"
    with pytest.raises(ValidationError, match="extra"):
        TrainConfig(n_steps=3)  # type: ignore[call-arg]


def test_an_unknown_environment_gets_settings_too() -> None:
    assert default_hyperparams("my/Own-v0", "ppo")["n_timesteps"] > 0


def test_train_is_callable_from_python_and_repeats_itself(tmp_path: Path) -> None:
    settings: dict[str, Any] = dict(env=BANDIT, algo="a2c", n_timesteps=192, n_envs=32, test_episodes=8, progress=False)
    first, second = (train(TrainConfig(log_folder=str(tmp_path / name), **settings)) for name in "ab")
    assert [c.completion for c in first.after.completions] == [c.completion for c in second.after.completions]
    np.testing.assert_array_equal(first.after.reward, second.after.reward)
    assert first.folder == tmp_path / "a" / "a2c" / "TokenBandit-v0_1"


def test_a_reward_that_raises_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def down(self: Any, prompts: list[str], completions: list[str], **columns: Any) -> Any:
        raise ConnectionError("the judge is down")

    monkeypatch.setattr("rlhf_envs.rewards.rules.TokenBanditReward.score", down)
    result = rlhf("train", *SMALL, "-f", str(tmp_path), "--env-kwargs", "reward_retries:0")
    assert result.exit_code == 1
    assert "rlhf: reward 'token-bandit' failed once" in result.output
    assert "ConnectionError: the judge is down" in result.output
    assert "Traceback" not in result.output


def test_a_run_that_fails_in_the_middle_keeps_what_it_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf_envs.rewards.rules import TokenBanditReward

    score, calls = TokenBanditReward.score, []

    def fails_later(self: Any, prompts: list[str], completions: list[str], **columns: Any) -> Any:
        calls.append(1)
        scores = score(self, prompts, completions, **columns)
        return scores * float("nan") if len(calls) > 12 else scores

    monkeypatch.setattr(TokenBanditReward, "score", fails_later)
    flags = [
        "--env",
        "rlhf/TokenBandit-v0",
        "-n",
        "200000",
        "--n-envs",
        "8",
        "-params",
        "batch_size:24",
        "--eval-freq",
        "0",
    ]
    result = rlhf("train", *flags, "--test-episodes", "4", "--no-progress", "-f", str(tmp_path))
    assert result.exit_code == 1
    assert "token-bandit" in result.output
    folder = tmp_path / "ppo" / "TokenBandit-v0_1"
    (checkpoint,) = (folder / "checkpoints").iterdir()
    said = " ".join(result.stderr.split())
    assert f"its last checkpoint is {checkpoint}; go on with: rlhf train --resume {folder}" in said
    monkeypatch.undo()
    figures = rlhf("evaluate", str(folder), "-n", "8")
    assert figures.exit_code == 0, figures.output
    assert str(checkpoint) in "".join(figures.output.split()), "of an unfinished run the newest checkpoint is evaluated"


def test_a_folder_of_any_name_is_shown_whole_and_its_commands_can_be_pasted(tmp_path: Path) -> None:
    logs = tmp_path / "my [bold] logs"
    flags = ["--env", "rlhf/TokenBandit-v0", "--algo", "random", "-n", "96", "--n-envs", "8", "--test-episodes", "4"]
    said = rlhf("train", *flags, "--eval-freq", "0", "--no-progress", "-f", str(logs)).output
    folder = logs / "random" / "TokenBandit-v0_1"
    assert f"Everything is in {folder}\n" in said and f"curves: {folder / 'curves.png'} " in said
    assert f"live: tensorboard --logdir '{logs}'\n" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "tiny-reward"), "not a causal language model; embedded: tiny"),
        (("evaluate", "gold"), "models/gold' cannot be loaded"),
    ],
)
def test_models_of_another_kind_are_one_clear_line(arguments: tuple[str, ...], message: str) -> None:
    result = rlhf(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def _commands(command: Any, path: tuple[str, ...] = ("rlhf",)) -> Iterator[tuple[str, Any]]:
    yield " ".join(path), command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, (*path, name))


def test_no_help_text_loses_words_in_square_brackets() -> None:
    """Rich takes [webhooks] for a style and prints nothing."""
    for path, command in _commands(typer.main.get_command(app)):
        texts = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
        assert [text for text in texts if text and render(text).plain != text] == [], path


def test_the_verbs_of_feedback_stand_in_boxes_by_what_they_are_for() -> None:
    help_text = rlhf("feedback", "--help").output
    order = ("Ask and answer", "add", "Read the answers", "export", "People", "invite", "The project as a whole")
    places = [help_text.index(f" {word} ") for word in order]
    assert places == sorted(places)


def test_the_help_of_a_verb_of_feedback_has_no_box_about_an_agent() -> None:
    assert " Agent " not in rlhf("feedback", "label", "--help").output
    assert " Task and data " in rlhf("feedback", "add", "--help").output


def test_one_source_is_evaluated_on_several_environments(tmp_path: Path) -> None:
    flags = ["evaluate", "tiny", "--envs", "rlhf/sentiment-v0,rlhf/SpamFilter-v0", "-n", "6", "--samples", "1"]
    shown = rlhf(*flags, "-o", str(tmp_path / "both.json"))
    assert shown.exit_code == 0, shown.output
    both = json.loads((tmp_path / "both.json").read_text())
    assert [one["env"] for one in both] == ["rlhf/Sentiment-v0", "rlhf/SpamFilter-v0"]
    alone = rlhf("evaluate", "tiny", "--env", "rlhf/SpamFilter-v0", "-n", "6", "--json")
    assert json.loads(alone.stdout)["estimates"] == both[1]["estimates"]
    reward = both[0]["estimates"]["reward"]
    (row,) = [
        line for line in shown.output.splitlines() if line.split("6 held-out prompts")[0].strip() == both[0]["env"]
    ]
    assert f"{reward['mean']:.3f} ± {reward['sem']:.3f}" in row and "gold " in row
    assert f"balanced_accuracy {both[1]['estimates']['balanced_accuracy']['mean']:.3f}" in shown.output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--envs", "rlhf/SpamFilter-v0,rlhf/TokenBandit-v0"],
            "rlhf/TokenBandit-v0: task 'token-bandit' has a vocabulary of its own",
        ),
        (["--envs", "rlhf/SpamFilter-v0,rlhf/SpamFilter-v0"], "rlhf/SpamFilter-v0 is there twice"),
        (["--envs", "rlhf/SpamFilter-v0,rlhf/Spam-v0"], "unknown environment 'rlhf/Spam-v0'"),
        (["--envs", "rlhf/SpamFilter-v0", "--env", "rlhf/Sentiment-v0"], "--env rlhf/Sentiment-v0 with --envs"),
        (["--envs", "rlhf/Sentiment-v0,rlhf/SpamFilter-v0", "--data", "x.jsonl"], "it is the data of one"),
    ],
)
def test_environments_that_do_not_go_together_are_named(flags: list[str], message: str) -> None:
    shown = rlhf("evaluate", "tiny", "-n", "2", *flags)
    assert shown.exit_code == 2
    assert message in " ".join(shown.output.split())
