"""One reward model per aspect: from the answers of a store, or rows of a file, to a folder that a run takes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification
from typer.testing import CliRunner

from agents.cli import app
from rlhf_envs.feedback import FeedbackStore, NewItem, Question
from rlhf_envs.feedback.formats.exporting import export_file
from rlhf_envs.feedback.formats.stored_rows import is_store
from rlhf_envs.models import load_tokenizer
from rlhf_envs.preferences.aspects.rows import judged_aspects, weigh_annotators
from rlhf_envs.rewards import evaluate_reward, get_reward
from rlhf_envs.rewards.aspects import read_aspects

WORDS = ("the", "film", "plot", "and", "it")
QUESTIONS = (
    Question("good", "?", "rating", each=True, kinds=("questions",)),
    Question("kinder", "?", "choice", kinds=("questions",)),
    Question("why", "?", "text", required=False, kinds=("questions",)),
)
FAST = ("--epochs", 4, "--learning-rate", 5e-3, "--batch-size", 16, "--no-calibration")


def rlhf(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


def says(name: str, question: str, texts: tuple[str, ...]) -> Any:
    """The answer of an annotator: "eve" answers the first question without a look at the texts."""
    good = [5 if "good" in text else 1 for text in texts]
    if question == "good":
        return [random.Random(text).choice((1, 5)) for text in texts] if name == "eve" else good
    kind = ["kind" in text for text in texts]
    return {"choice": None if kind[0] == kind[1] else int(kind[1]), "strength": int(kind[0] != kind[1])}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small backbone, and a store with answers to two questions and flags of harm."""
    place = tmp_path_factory.mktemp("aspects")
    tokenizer = load_tokenizer("tiny")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=2, n_head=2, pad_token_id=0)
    config.num_labels = 1
    GPT2ForSequenceClassification(config).save_pretrained(place / "backbone")
    tokenizer.save_pretrained(place / "backbone")
    draw = random.Random(0)
    with FeedbackStore(place / "feedback.db", seed=0) as store:
        store.update_settings(questions=QUESTIONS, harms=("hate", "privacy"))
        for name in ("ann", "bob", "eve"):
            store.add_annotator(name)
        items = []
        for i in range(60):
            start = " ".join(draw.choices(WORDS, k=3))
            texts = [f"{start} {g} {k}" for g in ("good", "bad") for k in ("kind", "rude")]
            items.append(NewItem("questions", f"{i} ", tuple(draw.sample(texts, 2)), overlap=3))
            items.append(NewItem("flags", f"{i} ", (draw.choice(texts),), overlap=1))
        store.add_items(items)
        for name in ("ann", "bob", "eve"):
            while (task := store.claim(name)) is not None:
                texts = task.item.completions
                value, answers = {"harms": ["hate"] if "rude" in texts[0] else []}, {}
                if task.item.kind == "questions":
                    value, answers = {}, {question: says(name, question, texts) for question in ("good", "kinder")}
                store.submit(task.id, name, value, key=f"{name}{task.id}", answers=answers)
    return place


def stored(path: str) -> bool:
    return Path(path).is_file() and is_store(path)


def judged(source: Path, **aspects: dict[str, Any]) -> Any:
    return judged_aspects(str(source), read_aspects(aspects, to_fit=True), stored)


def test_questions_harms_and_kinds_of_a_store_are_aspects(place: Path) -> None:
    good, kinder, flags, hate = judged(place / "feedback.db", good={}, kinder={}, flags={}, hate={})
    assert [one.loss for one in (good, kinder, flags, hate)] == ["mse", "bt", "flags", "flags"]
    assert (len(good.rows), len(flags.rows)) == (360, 60)
    assert {tuple(row[key] for key in ("flag", "harms")).__repr__() for row in hate.rows} == {
        "(True, ['hate'])",
        "(False, [])",
    }
    (privacy, pairs) = judged(place / "feedback.db", p={"harm": "privacy"}, better={"criterion": "good", "loss": "bt"})
    assert not any(row["flag"] for row in privacy.rows)
    assert "chosen" in pairs.rows[0]
    assert all("chosen" in row for row in kinder.rows)


@pytest.mark.parametrize(
    ("aspects", "message"),
    [
        ({"goood": {}}, "aspect 'goood': .* asks no question 'goood'; did you mean 'good'\\? \\(an aspect"),
        ({"why": {}}, r"aspect 'why': criterion 'why' \(the type 'text'\) says of no completion"),
        ({"kinder": {"loss": "mse"}}, "aspect 'kinder': criterion 'kinder' rates no completion by itself"),
        ({"x": {"harm": "hat"}}, "aspect 'x': no harm 'hat' in .*; did you mean 'hate'"),
        ({"rating": {}}, "aspect 'rating': .* gives no rows of ratings"),
    ],
)
def test_an_aspect_that_is_not_there_is_named(place: Path, aspects: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judged(place / "feedback.db", **aspects)


def test_annotators_are_weighed_by_aspect(place: Path) -> None:
    good, kinder = judged(place / "feedback.db", good={}, kinder={})
    rows, weights = weigh_annotators(good.rows)
    assert weights["eve"] < 0.1 < 1 < weights["ann"]
    assert {row["weight"] for row in rows if row["annotator"] == "eve"} == {max(weights["eve"], 0.01)}
    assert min(weigh_annotators(kinder.rows)[1].values()) > 0.9, "eve answers the other question"
    assert weigh_annotators([{"prompt": "", "completion": "a", "label": 1}])[0][0].get("weight") is None


def test_a_fit_writes_what_a_run_takes_and_says_how_far_aspects_go_together(place: Path, tmp_path: Path) -> None:
    output = tmp_path / "models"
    flags = ("--model", place / "backbone", *FAST)
    done = rlhf("reward", "fit", place / "feedback.db", output, "--aspects", "good,kinder,flags", *flags)
    assert done.exit_code == 0, done.output
    for shown in ("good: 360 ratings", "lowest weight", "(eve)", "held-out AUC", "how far the aspects go together"):
        assert shown in done.output
    figures = json.loads((output / "manifest.json").read_text())["figures"]
    assert figures["aspects"]["good"]["held-out pair accuracy"] > 0.6  # eve's ratings are held out too
    assert figures["aspects"]["kinder"]["held-out accuracy"] > 0.9
    assert figures["aspects"]["flags"]["held-out AUC"] > 0.9
    together = {(one["first"], one["second"]): one for one in figures["correlations"]}
    assert together["kinder", "flags"]["models"] < -0.8, "who is rude is flagged"
    assert abs(together["good", "kinder"]["models"]) < 0.5
    assert (output / "aspects.yml").read_text().splitlines()[2:] == [
        "good: {weight: 1}",
        "kinder: {weight: 1}",
        'flags: {limit: 0.1, harm: "any"}',
    ]
    lines = {name: (output / name / "held_out.jsonl").read_text().splitlines() for name in ("good", "flags")}
    held = [{json.loads(line)["prompt"] for line in own} for own in lines.values()]
    assert held[0] & held[1], "one split serves all"
    reward = get_reward("aspects", aspects=str(output))
    _, components = evaluate_reward(
        reward, ["1 "] * 3, [f"the film {w}" for w in ("good kind", "bad kind", "good rude")], {}
    )
    assert components["good"].argmin() == 1
    assert components["kinder"].argmin() == components["flags"].argmax() == 2
    # a fit anew keeps the weights that somebody wrote, and the aspects that it does not fit, with their models
    varied = 'varied: {weight: 0.2, reward: "distinct-ngrams"}'
    (output / "aspects.yml").write_text(
        f"good: {{weight: 0.5}}\nkinder: {{weight: 3}}\nflags: {{limit: 0.2}}\n{varied}\n"
    )
    kinder = (output / "kinder/model.safetensors").read_bytes()
    again = rlhf("reward", "fit", place / "feedback.db", output, "--aspects", "good,flags", "--no-weigh", *flags)
    assert again.exit_code == 0, again.output
    assert (output / "aspects.yml").read_text().splitlines()[2:] == [
        "good: {weight: 0.5}",
        'flags: {limit: 0.2, harm: "any"}',
        "kinder: {weight: 3}",
        varied,
    ]
    assert "kept as they were: kinder, varied; to drop one, delete its line in" in again.output
    assert (output / "kinder/model.safetensors").read_bytes() == kinder
    assert set(get_reward("aspects", aspects=str(output)).aspects) == {"good", "flags", "kinder", "varied"}
    assert "lowest weight" not in again.output


def test_rows_of_files_are_aspects_by_a_column_or_by_name(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "p", "completion": str(i), "help": i % 5, "true": "" if i % 2 else "1.5"} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    help_, true = judged(path, help={}, true={"loss": "ordinal"})
    assert ([row["label"] for row in help_.rows], help_.loss) == ([0, 1, 2, 3], "mse")
    assert ([row["label"] for row in true.rows], true.loss) == ([1.5, 1.5], "ordinal")
    assert true.dropped == {"rows without 'true'": 2}
    mixed = [
        {"aspect": "better", "prompt": "p", "chosen": "a", "rejected": "b"},
        {"aspect": "harm", "prompt": "p", "completion": "a", "flag": True, "harms": ["hate"]},
        {"aspect": "harm", "prompt": "p", "completion": "b", "flag": "maybe"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in mixed))
    (better,) = judged(path, better={})
    assert (better.loss, len(better.rows), better.dropped) == ("bt", 1, {"rows of other aspects": 2})
    with pytest.raises(ValueError, match=r"rows\.jsonl, row 3: flag is 'maybe', not a number"):
        judged(path, harm={})
    with pytest.raises(ValueError, match=r"aspect 'bettr': .* has no rows of it.*; did you mean 'better'"):
        judged(path, bettr={})
    items = tmp_path / "items.jsonl"
    with FeedbackStore(place / "feedback.db") as store:
        export_file(store, items, "items")
        direct = judged(place / "feedback.db", kinder={})[0].rows
    exported = judged_aspects(str(items), read_aspects({"kinder": {}}, to_fit=True), lambda path: True)[0].rows
    assert np.unique([json.dumps(row, sort_keys=True) for row in exported]).tolist() == sorted(
        {json.dumps(row, sort_keys=True) for row in direct}
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--aspects", "good", "--cost"), "--cost with --aspects: it is for one reward model"),
        (("--aspects", "good", "--criterion", "good"), "--criterion with --aspects"),
        (("--no-weigh",), "--no-weigh is for --aspects"),
        (("--aspects", "own.yml"), "all its aspects have a reward of their own, so none is to be fitted"),
        (("--aspects", "none.yml"), "there is no file of aspects none.yml"),
        (("--aspects", ","), "there is no aspect"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yml").write_text("fresh: {weight: 1, reward: novelty}\n")
    done = rlhf("reward", "fit", place / "feedback.db", tmp_path / "out", *flags)
    assert done.exit_code == 2
    assert message in done.output
