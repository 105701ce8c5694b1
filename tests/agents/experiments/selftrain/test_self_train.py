"""Self-training: what is chosen, what is learned, what a run leaves, and how it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

import agents
from agents.cli import app
from agents.core.completions import cut_end
from agents.core.episodes import open_batch
from agents.core.examples import IGNORED, encode_rows
from agents.evaluation.generate import Completion, generate
from agents.experiments.selftrain import report as reporting
from agents.experiments.selftrain import steps
from agents.experiments.selftrain.choosing import as_row, choose
from agents.experiments.selftrain.config import SelfTrainConfig
from agents.experiments.selftrain.run import self_train, with_defaults
from agents.training.errors import RunStopped
from rlhf_envs.models import load_tokenizer
from rlhf_envs.tokens import end_ids

pytest.importorskip("accelerate", reason="fine-tuning needs the extra train")

SHORT: dict[str, Any] = {"reward": "gold-bow", "max_new_tokens": 6}
SETTINGS: dict[str, Any] = dict(model="tiny", env_kwargs=SHORT, prompts=24, n=4, test_episodes=8, judge=["tiny-reward"])


def config(folder: Path, **kwargs: Any) -> SelfTrainConfig:
    return SelfTrainConfig(**{"log_folder": str(folder), "run_name": "run", **SETTINGS, **kwargs})


def answer(text: str, reward: float) -> Completion:
    empty = np.zeros(0, np.int64)
    return Completion(0, "Why?", text, "eos", reward, {}, empty, empty, empty, {})


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def rlhf(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["self-train", *arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds."""
    folder = tmp_path_factory.mktemp("logs")
    return self_train(config(folder, learning_rate=1e-3, epochs=2), say=lambda _: None).folder


def test_the_best_answers_to_each_prompt_are_kept_and_equal_ones_count_once() -> None:
    first = [answer(" a", 1.0), answer(" b", 3.0), answer(" b", 3.0), answer(" ", 9.0)]
    second = [answer(" c", -1.0), answer(" d", -1.0), answer(" e", -1.0), answer(" f", -1.0)]
    kept, counts = choose([*first, *second], 4)
    assert [done.completion for done in kept] == [" b", " c"]
    assert counts == dict(drawn=8, prompts=2, kept=2, duplicates=1, empty=1, below=0, without_choice=1, unlearned=0)
    kept, _ = choose([*first, *second], 4, share=0.5)
    assert [done.completion for done in kept] == [" b", " a", " c", " d"]
    assert [done.completion for done in choose(second, 4, share=0.3)[0]] == [" c", " d"], "rounded up"
    assert [done.completion for done in choose([second[0], second[1], second[0]], 3)[0]] == [" c"], "the first drawn"
    kept, counts = choose([*first, *second], 4, share=1.0, min_score=1.0)
    assert [done.completion for done in kept] == [" b", " a"]
    assert (counts["below"], counts["unlearned"]) == (4, 1)


def test_what_is_learned_are_the_best_of_what_the_model_of_the_round_before_writes(done: Path) -> None:
    learned = rows(done / "round_1" / "draw" / "best.jsonl")
    assert json.loads((done / "round_1" / "learn" / "model" / "sft.json").read_text())["examples"] == len(learned)
    data = open_batch("rlhf/Sentiment-v0", 1, split="train", **SHORT).rows
    places = np.random.default_rng(0).permutation(len(data))[:24]
    drawn = generate(
        "tiny", "rlhf/Sentiment-v0", indices=places.repeat(4), seed=1_000_004, split="train", env_kwargs=SHORT
    )
    assert learned == [as_row(max(drawn[i : i + 4], key=lambda one: one.reward)) for i in range(0, 96, 4)]
    second = {row["prompt"] for row in rows(done / "round_2" / "draw" / "best.jsonl")}
    assert not second & {row["prompt"] for row in learned}, "other prompts in each round"


def test_the_answers_become_more_likely_and_the_start_stays_the_reference(done: Path) -> None:
    import torch

    from rlhf_envs.models import load_causal_lm

    learned = rows(done / "round_1" / "draw" / "best.jsonl")
    tokenizer = load_tokenizer("tiny")
    examples, _ = encode_rows(tokenizer, learned, 512, end_ids(tokenizer, "tiny"))

    def loss(model: str) -> float:
        network = load_causal_lm(model)
        with torch.no_grad():
            found = [
                float(network(torch.tensor([one.ids]), labels=torch.tensor([one.labels])).loss) for one in examples
            ]
        return float(np.mean(found))

    assert loss(str(done / "round_1" / "learn" / "model")) < loss("tiny") - 0.05
    rounds = json.loads((done / "report.json").read_text())["rounds"]
    kl = [metrics["estimates"]["kl"]["mean"] for metrics in rounds]
    assert abs(kl[0]) < 1e-4 < kl[1]
    own = agents.evaluate(
        str(done / "model"), "rlhf/Sentiment-v0", 8, judges=["tiny-reward"], reference="tiny", env_kwargs=SHORT
    )
    assert own.kl is not None and float(own.kl.mean()) == pytest.approx(kl[2], abs=1e-4)
    judged = rounds[2]["estimates"]["tiny-reward"]["mean"]
    assert float(own.judges["tiny-reward"].mean()) == pytest.approx(judged, abs=1e-5)


def test_a_run_leaves_a_report_of_every_round_and_a_model(done: Path) -> None:
    report = json.loads((done / "report.json").read_text())
    assert [metrics["round"] for metrics in report["rounds"]] == [0, 1, 2]
    assert report["judges"] == ["tiny-reward"]
    for metrics in report["rounds"][1:]:
        assert metrics["drawn"] == 96 and metrics["kept"] == metrics["examples"]
        assert metrics["score_kept"] > metrics["score_drawn"]
        assert 0 < metrics["distinct_1"] < metrics["distinct_3"] <= 1
    text = (done / "report.md").read_text()
    assert "| tiny-reward |" in text and "4 answers to each of up to 24 training prompts, keep the best" in text
    assert (done / "model" / "model.safetensors").is_file()
    assert not [*done.rglob("checkpoint-*")] and not (done / "round_1" / "training").exists()


def test_a_run_that_stopped_goes_on_to_the_same_model(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = config(tmp_path, learning_rate=1e-3, epochs=2)
    real = steps.fine_tune

    def fail_in_the_second(*arguments: Any, **options: Any) -> Any:
        if options["seed"] == 2:
            raise OSError("no space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(steps, "fine_tune", fail_in_the_second)
    with pytest.raises(RunStopped, match=r"no space left on device.*; go on with: rlhf self-train --resume .*run"):
        self_train(given, say=lambda _: None)
    monkeypatch.undo()
    result = rlhf("--resume", str(tmp_path / "self-train" / "run"))
    assert result.exit_code == 0, result.output
    assert "round_1: " not in result.output and "round_2: draw" not in result.output
    assert "round_2: learn" in result.output and "KL" in result.output
    first, again = (load_file(folder / "model" / "model.safetensors") for folder in (done, tmp_path / "self-train/run"))
    for name, weight in first.items():
        np.testing.assert_array_equal(weight, again[name])


def test_an_answer_that_ran_out_of_room_has_no_end_for_either_trainer(tmp_path: Path) -> None:
    written = [
        {"prompt": "The film was", "completion": " a joy to watch", "finish_reason": reason, "split": "train"}
        for reason in ("length", "eos")
    ]
    tokenizer = load_tokenizer("tiny")
    ends = end_ids(tokenizer, "tiny")
    examples, _ = encode_rows(tokenizer, written, 64, ends)
    short, whole = ([label for label in one.labels if label != IGNORED] for one in examples)
    assert whole == [*short, ends[0]]
    file = tmp_path / "best.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in written), encoding="utf-8")
    env = agents.make_vec_env("rlhf/Prompts-v0", 2, data=str(file), reward="gold-bow", max_new_tokens=8)
    references = agents.make("sft", env, model="tiny")._references
    assert [reference.actions.tolist() for reference in references] == [short, whole]
    assert cut_end(" joy<|im_end|>\n", " joy") == " joy" and cut_end(" joy ", " joy ") == " joy "


def test_collapse_and_scores_that_say_nothing_are_warned_of() -> None:
    first = {"round": 0, "distinct_2": 0.9}
    assert not [*reporting.warnings(first, first)]
    now = {"round": 1, "distinct_2": 0.4, "without_choice": 3, "prompts_drawn": 4}
    collapsed, same = reporting.warnings(first, now)
    assert "distinct-2 fell from 0.90 to 0.40" in collapsed and "3 of 4 prompts had answers of one score" in same


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--keep", "2"], "--keep: expected best, all, or a share between 0 and 1, such as 0.25 (got '2')"),
        (["--keep", "all"], "--keep all learns whatever is drawn"),
        (["-n", "1"], "--n: Input should be greater than or equal to 2"),
        (["--reward", "gold", "--judge", "gold"], "--judge gold is the reward that answers are chosen by"),
        (["--judge", "nothing"], "unknown reward 'nothing'"),
        (["--env", "rlhf/Nothing-v0"], "rlhf/Nothing-v0"),
        (["--env", "rlhf/Tutor-v0"], "has answers with replies between, which self-training does not learn"),
    ],
)
def test_a_wrong_flag_is_one_line_and_writes_nothing(flags: list[str], said: str, tmp_path: Path) -> None:
    result = rlhf("tiny", "-f", str(tmp_path), *flags)
    assert result.exit_code == 2 and said in result.output, result.output
    assert "Traceback" not in result.output and not [*tmp_path.iterdir()]


def test_nothing_to_train_or_to_learn_is_said(tmp_path: Path) -> None:
    missing = rlhf("-f", str(tmp_path))
    assert missing.exit_code == 2 and "name a run or a model" in missing.output
    said = r"nothing to learn of 8 answers, the scores are too low: min_score=1000000"
    with pytest.raises(RunStopped, match=said) as stopped:
        self_train(config(tmp_path, prompts=2, test_episodes=2, min_score=1e6), say=lambda _: None)
    assert "a lower --min-score" in str(stopped.value)
    assert "--resume" not in str(stopped.value), "it would draw the same answers"


def test_a_run_brings_its_environment_and_how_it_draws(tmp_path: Path) -> None:
    env = agents.make_vec_env("rlhf/Sentiment-v0", 2, reward="gold", max_new_tokens=4)
    agent = agents.make("ppo", env, n_steps=4, batch_size=8, model="tiny", temperature=0.7)
    agents.save(agent, tmp_path / "bundle")
    found = with_defaults(SelfTrainConfig(model=str(tmp_path / "bundle"), top_k=5))
    assert (found.env, found.temperature, found.top_k) == ("rlhf/Sentiment-v0", 0.7, 5)
    assert found.env_kwargs["reward"] == "gold" and found.judge == [], "gold is the reward here, and judges nothing"
    done = self_train(
        found.model_copy(update={"log_folder": str(tmp_path), "rounds": 1, "prompts": 2, "n": 2, "test_episodes": 2}),
        say=lambda _: None,
    )
    assert (done.folder / "start" / "model.safetensors").is_file()
    assert agents.evaluate(str(done.folder), n_episodes=2).reference == str(done.folder / "start")
