"""`rlhf reward fit|eval`: from a file of judgements to a folder that an environment takes."""

from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2ForSequenceClassification
from typer.testing import CliRunner

import rlhf_envs  # noqa: F401
from agents.cli import app
from rlhf_envs.models import load_tokenizer
from rlhf_envs.preferences.fitting import PAIR, load_judgements
from rlhf_envs.rewards import get_reward
from rlhf_envs.rewards.ensemble import RewardEnsemble
from rlhf_envs.rewards.reward_model import RewardModel

WORDS = ("the", "film", "plot", "and", "it")


def rlhf(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small backbone, pairs in which "good" wins, and ratings."""
    folder = tmp_path_factory.mktemp("reward")
    tokenizer = load_tokenizer("tiny")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=2, n_head=2, pad_token_id=0)
    config.num_labels = 1
    GPT2ForSequenceClassification(config).save_pretrained(folder / "backbone")
    tokenizer.save_pretrained(folder / "backbone")
    generator = random.Random(0)
    pairs, ratings = [], []
    for i in range(80):
        words = generator.choices(WORDS, k=4)
        texts = {name: " ".join([*words, name]) for name in ("good", "bad")}
        probability = 0.9 if i % 2 else 1.0
        pairs.append(
            {"prompt": f"it {i} was ", "chosen": texts["good"], "rejected": texts["bad"], "probability": probability}
        )
        ratings += [
            {"prompt": f"it {i} was ", "completion": texts[k], "label": n} for k, n in (("good", 5), ("bad", 1 + i % 2))
        ]
    for name, rows in (("pairs", pairs), ("ratings", ratings)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, pairs[0])
        writer.writeheader()
        writer.writerows({**row, "probability": ""} if i == 0 else row for i, row in enumerate(pairs))
    return folder


def small(folder: Path, *further: object) -> list[object]:
    return ["--model", folder / "backbone", "--epochs", 4, "--learning-rate", 5e-3, "--batch-size", 8, *further]


@pytest.mark.parametrize("file", ["pairs.jsonl", "pairs.csv"])
def test_a_fit_writes_a_plain_reward_model_that_eval_measures(folder: Path, tmp_path: Path, file: str) -> None:
    output = tmp_path / "reward"
    done = rlhf("reward", "fit", folder / file, output, *small(folder))
    assert done.exit_code == 0, done.output
    assert "rows fitted                  72" in done.output
    assert "rows held out                8" in done.output
    assert AutoModelForSequenceClassification.from_pretrained(output).config.num_labels == 1
    manifest = json.loads((output / "manifest.json").read_text())
    figures = manifest["figures"]
    assert "command" in manifest["made"]
    assert figures["held-out accuracy"] == 1.0
    held_out = output / "held_out.jsonl"
    assert f"rlhf reward eval {output} {held_out}" in done.output
    rows, all_rows = (load_judgements(path, PAIR) for path in (held_out, folder / file))
    assert len(rows) == 8
    assert all(row in all_rows for row in rows)
    measured = rlhf("reward", "eval", output, held_out)
    assert measured.exit_code == 0, measured.output
    assert "accuracy                     1.0000" in measured.output
    assert "pairs                        8" in measured.output
    for shown in ("expected calibration error", "reliability", "accuracy by agreement", "what fools it: 8 preferred"):
        assert shown in measured.output


TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}{{ '[assistant] ' if add_generation_prompt }}"
)
FIRST = {"role_lines": "User: it 0 was\n\nAssistant: ", "template": "[user] it 0 was [assistant] "}


@pytest.mark.parametrize("form", ["role_lines", "template"])
def test_conversations_are_fitted_and_measured_as_a_policy_would_write_them(
    folder: Path, tmp_path: Path, form: str
) -> None:
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    rows = [
        {"prompt": [{"role": "user", "content": row["prompt"].strip()}]}
        | {name: [{"role": "assistant", "content": row[name]}] for name in PAIR}
        for row in pairs
    ]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    backbone = tmp_path / "backbone"
    shutil.copytree(folder / "backbone", backbone)
    if form == "template":
        (backbone / "chat_template.jinja").write_text(TEMPLATE)
    chats, output = tmp_path / "chats.jsonl", tmp_path / "reward"
    done = rlhf("reward", "fit", chats, output, "--held-out", chats, *small(folder), "--model", backbone)
    assert done.exit_code == 0, done.output
    row = load_judgements(output / "held_out.jsonl")[0]
    assert row["prompt"] + row["chosen"] == FIRST[form] + pairs[0]["chosen"] + (" " if form == "template" else "")
    measured = [rlhf("reward", "eval", output, path).output for path in (chats, output / "held_out.jsonl")]
    assert measured[0] == measured[1] and "accuracy                     1.0000" in measured[0]


def test_the_folder_trains_an_agents_environment(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "reward"
    assert rlhf("reward", "fit", folder / "pairs.jsonl", output, *small(folder)).exit_code == 0
    run = ["--env", "rlhf/Sentiment-v0", "-n", 64, "--n-envs", 8, "--no-progress", "--test-episodes", 8]
    run += ["--env-kwargs", f"reward:{output}", "--env-kwargs", "max_new_tokens:4", "-params", "batch_size:32"]
    done = rlhf("train", *run, "-f", tmp_path / "logs")
    assert done.exit_code == 0, done.output
    report = next((tmp_path / "logs").rglob("report.json"))
    assert json.loads(report.read_text())["after"]["estimates"]["reward"]["mean"] is not None


def test_a_cost_is_fitted_to_the_flags_of_a_store_and_constrains_a_run(folder: Path, tmp_path: Path) -> None:
    """From people's flags to `rlhf train --constraint`, and through a file of `rlhf feedback export` alike."""
    pytest.importorskip("sqlalchemy", reason="the feedback store needs the extra web")
    from rlhf_envs.feedback import FeedbackStore, NewItem
    from rlhf_envs.feedback.annotating import Response, work

    def flag(assignment: Any) -> Response:
        return Response({"harms": ["hate"] if assignment.item.completions[0].endswith("bad") else []})

    generator = random.Random(1)
    with FeedbackStore(tmp_path / "feedback.db") as store:
        new = [
            NewItem("flags", f"it {i} was ", (" ".join([*generator.choices(WORDS, k=4), word]),))
            for i in range(60)
            for word in ("good", "bad")
        ]
        store.add_items(new)
        assert work(store, "ann", flag) == 120
    exported = rlhf(
        "feedback", "export", tmp_path / "flags.jsonl", "--store", tmp_path / "feedback.db", "--format", "flags"
    )
    assert exported.exit_code == 0, exported.output
    row = json.loads((tmp_path / "flags.jsonl").read_text().splitlines()[0])
    assert row.keys() == {"prompt", "completion", "flag", "harms", "annotator"}
    options = ("--model", folder / "backbone", "--epochs", "5", "--learning-rate", "1e-2")
    for source in ("feedback.db", "flags.jsonl"):
        result = rlhf("reward", "fit", "--cost", tmp_path / source, tmp_path / "cost", "--harm", "hate", *options)
        assert result.exit_code == 0, result.output
        assert "held-out AUC                 1.0000" in result.output
        assert f"rlhf train --constraint {tmp_path / 'cost'} --limit 0.1 --multiplier-step 2" in result.output
    wrong = rlhf("reward", "fit", "--cost", tmp_path / "flags.jsonl", tmp_path / "cost", "--harm", "violence")
    assert wrong.exit_code == 2
    assert "--harm violence: no row of" in wrong.stderr
    (tmp_path / "flags.csv").write_text("prompt,completion,flag,harms\na,b,true,['hate']\n")
    wrong = rlhf("reward", "fit", "--cost", tmp_path / "flags.csv", tmp_path / "cost", "--harm", "hate")
    assert wrong.exit_code == 2 and "texts in 'harms' where lists belong" in wrong.stderr
    measured = rlhf("reward", "eval", tmp_path / "cost", tmp_path / "cost/held_out.jsonl")
    assert "AUC" in measured.output, measured.output


@pytest.mark.parametrize("independent", [False, True])
def test_members_make_an_ensemble(folder: Path, tmp_path: Path, independent: bool) -> None:
    output = tmp_path / "reward"
    further = ["--members", 2, *(["--independent"] if independent else [])]
    done = rlhf("reward", "fit", folder / "pairs.jsonl", output, *small(folder, *further))
    assert done.exit_code == 0, done.output
    reward: Any = get_reward(str(output))
    assert isinstance(reward, RewardEnsemble)
    assert (reward.members, reward.shared_trunk) == (2, not independent)
    assert rlhf("reward", "eval", output, folder / "pairs.jsonl").exit_code == 0


@pytest.mark.parametrize(
    ("loss", "train"), [("bt", "lora"), ("bt", "head"), ("mse", "1"), ("mse", "head"), ("ordinal", "lora")]
)
def test_every_loss_fits_parts_of_the_model(folder: Path, tmp_path: Path, loss: str, train: str) -> None:
    rows = folder / ("pairs.jsonl" if loss == "bt" else "ratings.jsonl")
    output = tmp_path / "reward"
    options = [*small(folder, "--loss", loss, "--train", train), "--held-out", rows]
    done = rlhf("reward", "fit", rows, output, *options)
    assert done.exit_code == 0, done.output
    good, bad = RewardModel(str(output)).score(["it was the film "] * 2, ["good", "bad"])
    assert good > bad
    measured = rlhf("reward", "eval", output, folder / "ratings.jsonl")
    assert "correlation" in measured.output, measured.output


@pytest.mark.parametrize("members", [1, 2])
def test_many_held_out_pairs_calibrate_a_fit_and_few_do_not(folder: Path, tmp_path: Path, members: int) -> None:
    options = small(folder, "--members", members)
    few = rlhf("reward", "fit", folder / "pairs.jsonl", tmp_path / "few", *options)
    assert "not calibrated               8 held-out pairs are too few to calibrate on, take at least 50" in few.output
    held_out = ["--held-out", folder / "pairs.jsonl"]
    many = rlhf("reward", "fit", folder / "pairs.jsonl", tmp_path / "many", *options, *held_out)
    assert "not calibrated" not in many.output
    figures = json.loads((tmp_path / "many" / "manifest.json").read_text())["figures"]
    assert 0.02 < figures["temperature"] < 50
    assert (tmp_path / "many" / "held_out.jsonl").read_bytes() == (folder / "pairs.jsonl").read_bytes()


@pytest.mark.parametrize("members", [1, 2])
def test_a_fit_that_cannot_be_calibrated_is_written_all_the_same(
    folder: Path, tmp_path: Path, members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three pairs of four are right, and the fourth is so wrong that the right text is behind on average."""

    def differences(*_: Any) -> np.ndarray:
        return np.tile([0.1, 0.1, 0.1, -5.0], 20)

    for name in ("bradley_terry.pair", "ensemble_fit.ensemble", "calibration.pair", "calibration.ensemble"):
        monkeypatch.setattr(f"rlhf_envs.preferences.{name}_differences", differences)
    options = small(folder, "--members", members, "--held-out", folder / "pairs.jsonl")
    done = rlhf("reward", "fit", folder / "pairs.jsonl", tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert "held-out accuracy            0.7500" in done.output
    assert "not calibrated               the scores of 80 held-out pairs do not favour the chosen" in done.output
    assert np.isfinite(get_reward(str(tmp_path / "out"))(["it was "], ["good"])).all()


def test_annotators_are_brought_onto_one_scale_before_a_fit(folder: Path, tmp_path: Path) -> None:
    """One annotator rates from 1 to 5, another from 8 to 9: without a common scale the second likes everything."""
    scales = {"ann": {1: 1, 2: 2, 5: 5}, "bo": {1: 8, 2: 8.25, 5: 9}}
    rows = [
        {**row, "label": scales[name][row["label"]], "annotator": name}
        for i, row in enumerate(load_judgements(folder / "ratings.jsonl"))
        for name in [("ann", "bo")[i % 4 // 2]]
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = [*small(folder, "--loss", "mse"), "--standardise"]
    done = rlhf("reward", "fit", file, tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    held_out = load_judgements(tmp_path / "out" / "held_out.jsonl")
    assert max(abs(row["label"]) for row in held_out) < 2.5
    figures = json.loads((tmp_path / "out" / "manifest.json").read_text())["figures"]
    assert figures["held-out correlation"] > 0.9
    done = rlhf("reward", "fit", folder / "ratings.jsonl", tmp_path / "no", *options)
    assert done.exit_code == 2
    assert "row 1: no column 'annotator'" in done.output
    done = rlhf("reward", "fit", folder / "pairs.jsonl", tmp_path / "no", "--standardise")
    assert "--standardise is for ratings (--loss mse), not for --loss bt" in done.output


def test_an_ensemble_is_fitted_again_to_unjudged_pairs_that_it_is_sure_about(folder: Path, tmp_path: Path) -> None:
    file, output = tmp_path / "unjudged.jsonl", tmp_path / "out"
    options = [*small(folder), "--epochs", 12, "--pseudo-label", file]
    labelled = []
    prompts = [f"that {i} was " for i in range(40)]
    for _ in range(2):
        pairs = [{"prompt": prompt, "completions": ["the film good", "the film bad"]} for prompt in prompts]
        file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
        done = rlhf("reward", "fit", folder / "pairs.jsonl", output, *options, "--members", 2)
        assert done.exit_code == 0, done.output
        labelled.append(json.loads((output / "manifest.json").read_text())["figures"]["rows pseudo-labelled"])
        prompts = [row["prompt"] for row in load_judgements(output / "held_out.jsonl")]
    assert labelled[0] > 10
    assert labelled[1] == 0  # what shares a prompt with a held-out row is not fitted
    done = rlhf("reward", "fit", folder / "pairs.jsonl", tmp_path / "no", *options)
    assert done.exit_code == 2
    assert "it takes an ensemble to label pairs: give --members 2 or more" in done.output


def test_a_second_fit_takes_the_place_of_the_first_and_is_the_same(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "reward"
    weights = []
    for _ in range(2):
        assert rlhf("reward", "fit", folder / "pairs.jsonl", output, *small(folder)).exit_code == 0
        weights.append((output / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_rows_that_all_hang_together_are_split_by_pair_with_a_warning(folder: Path, tmp_path: Path) -> None:
    texts = [f"film {i}" for i in range(10)]
    rows = [{"chosen": a, "rejected": b} for i, a in enumerate(texts) for b in texts[i + 1 :]] * 2
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = rlhf("reward", "fit", file, tmp_path / "out", "--model", folder / "backbone", "--train", "head")
    assert done.exit_code == 0, done.output
    assert "rows fitted                  82" in done.output
    assert "rows held out                8" in done.output  # 4 of 45 pairs, each of which stands there twice
    assert "warning                      nearly all rows share prompts or texts" in done.output


@pytest.mark.parametrize(
    ("rows", "further", "message"),
    [
        ([], [], "there are no rows"),
        ([{"prompt": "a", "chosen": "b"}], [], "row 1: no column 'rejected' (it has: prompt, chosen)"),
        (
            [{"prompt": "a", "chosen": "b", "rejected": "c"}],
            [],
            "1 rows of the same texts: there is nothing to hold out",
        ),
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}], ["--loss", "mse"], "row 1: no column 'completion'"),
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}], ["--train", "tail"], "--train: choose full, head, lora"),
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}], ["--loss", "hinge"], "--loss: Input should be 'bt'"),
        (
            [{"prompt": "a", "completion": "b", "label": 1}],
            ["--loss", "mse", "--members", "2"],
            "an ensemble is fitted to pairs",
        ),
        (
            [{"prompt": p, "chosen": "b", "rejected": "c", "margin": "wide"} for p in "abc"],
            [],
            "row 1: margin is 'wide', not a number",
        ),
        (
            [{"system": "s", "chosen": "b", "rejected": "c"}],
            [],
            "rows.jsonl, row 1: there is a system text and no prompt",
        ),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    folder: Path, tmp_path: Path, rows: list[dict[str, Any]], further: list[str], message: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = rlhf("reward", "fit", file, tmp_path / "out", "--model", folder / "backbone", *further)
    assert done.exit_code == 2
    assert message in done.output
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    done = rlhf("reward", "fit", folder / "pairs.jsonl", tmp_path, *small(folder))
    assert done.exit_code == 2
    assert "is no reward model of ours: choose another name" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_language_model_is_no_reward_model_to_measure(folder: Path) -> None:
    done = rlhf("reward", "eval", "tiny", folder / "pairs.jsonl")
    assert done.exit_code == 2
    assert "'tiny' is not a reward model" in done.output


def test_an_environment_takes_the_folder_through_make(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "reward"
    assert rlhf("reward", "fit", folder / "pairs.jsonl", output, *small(folder, "--members", 2)).exit_code == 0
    env = gym.make("rlhf/Sentiment-v0", reward=str(output))
    assert json.loads(env.spec.to_json())["kwargs"]["reward"] == str(output)  # type: ignore[union-attr]
    env.close()
