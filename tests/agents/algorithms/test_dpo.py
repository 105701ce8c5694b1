"""DPO and KTO: their losses and gradients against TRL's trainers, the rows they read, and what goes on after a stop."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import agents
from agents.algorithms.common.preference_data import PAIRS, read_logged
from agents.core.episodes import open_batch
from agents.testing import bandit_figures
from agents.training.config import TrainConfig
from agents.training.dry_run import describe_run
from agents.training.run import prepare
from rlhf_envs.tasks.token_bandit import CONTEXTS
from tests.agents.algorithms.test_ilql import bandit_rows
from tests.agents.algorithms.test_policy_gradient import ID, assert_equal_loss_and_gradients, move

Row = dict[str, Any]


def pairs(n: int = 12, **columns: Any) -> list[Row]:
    """Pairs of IncreasingNumbers: completions of several lengths, with and without room for an EOS."""
    draw = np.random.default_rng(0)
    texts = [" ".join(map(str, draw.integers(0, 10, draw.integers(1, 12)))) for _ in range(2 * n)]
    return [dict(prompt=str(i % 10), chosen=texts[2 * i], rejected=texts[2 * i + 1], **columns) for i in range(n)]


def labels(n: int = 12) -> list[Row]:
    return [dict(prompt=row["prompt"], completion=row["chosen"], label=i % 3 > 0) for i, row in enumerate(pairs(n))]


def build(name: str, data: Any, env: Any = None, **kwargs: Any) -> Any:
    env = agents.make_vec_env(ID, 4, seed=0) if env is None else env
    return agents.make(name, env, seed=0, device="cpu", data=data, **kwargs)


def prepared(
    name: str, data: Any, batch_size: int | None = None, tokens: int = 0, **kwargs: Any
) -> tuple[Any, Any, list[Any]]:
    """An agent with moved weights, a copy of the model from before, and the minibatches of a rollout.

    The weights move at random, or by learning so many tokens.
    """
    agent = build(name, data, batch_size=batch_size, **kwargs)
    start = copy.deepcopy(agent.policy.language_model.model)
    if tokens:
        agent.learn(tokens)
    callback = agent._setup_learn(10_000, None)[1]
    callback.on_training_start({}, {})
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    buffer = agent.rollout_buffer
    buffer.advantages, buffer.returns = (a.astype(np.float32) for a in agent._advantages(buffer))
    if not tokens:
        move(agent.policy)
    return agent, start, list(buffer.get(batch_size))


def padded(sequences: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """What TRL's collators make of prompts and completions: ids, attention mask and completion mask."""
    length = max(len(prompt) + len(completion) for prompt, completion in sequences)
    shape = (len(sequences), length)
    ids, mask, completions = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    for row, (prompt, completion) in enumerate(sequences):
        n = len(prompt) + len(completion)
        ids[row, :n], mask[row, :n] = torch.tensor([*prompt, *completion]), 1
        completions[row, len(prompt) : n] = 1
    return {"input_ids": ids, "attention_mask": mask, "completion_mask": completions}


def sequences(samples: Any) -> list[tuple[list[int], list[int]]]:
    """Prompt and completion of each episode of a minibatch. A prompt of IncreasingNumbers is one token."""
    ids, rows = samples.observations["input_ids"], samples.observations["rows"]
    return [(ids[row, :1].tolist(), samples.actions[rows == row].tolist()) for row in range(len(ids))]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")

    def build_trainer(name: str, agent: Any, reference: Any, **config: Any) -> Any:
        tokenizer = agent.env.get_attr("tokenizer", 0)[0]
        good, bad = (f"{digit} {tokenizer.eos_token}" for digit in (2, 3))
        row = dict(chosen=good, rejected=bad) if name == "DPO" else dict(completion=good, label=True)
        arguments = getattr(trl, f"{name}Config")(
            output_dir=str(tmp_path_factory.mktemp(name)),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            per_device_train_batch_size=4,
            **({"train_sampling_strategy": "sequential"} if name == "KTO" else {}),
            **config,
        )
        built = getattr(trl, f"{name}Trainer")(
            model=agent.policy.language_model.model,
            ref_model=reference,  # a copy: without one TRL 1.16 reads it from the model's path again
            args=arguments,
            train_dataset=datasets.Dataset.from_list([{"prompt": "1", **row}] * 4),
            processing_class=tokenizer,
        )
        built.model.eval(), reference.eval()
        return built

    return build_trainer


def of_pairs(samples: Any) -> dict[str, torch.Tensor]:
    both = sequences(samples)
    return padded([*both[::2], *both[1::2]])


@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize(
    "settings",
    [
        dict(loss_type="sigmoid", beta=0.3),
        dict(loss_type="robust", beta=0.2, label_smoothing=0.2),
        dict(loss_type="ipo", beta=0.5),
    ],
    ids=lambda settings: settings["loss_type"],
)
def test_dpos_loss_and_gradients_are_trls(trainer: Any, settings: Row) -> None:
    agent, start, batches = prepared("dpo", pairs(), batch_size=16, **settings)
    theirs = trainer("DPO", agent, start, **settings)
    assert len(batches) > 1
    for samples in batches:
        loss, metrics = agent._loss(samples)
        expected = theirs._compute_loss(theirs.model, of_pairs(samples), False)
        assert_equal_loss_and_gradients(agent.policy, loss, expected)
        for name in ("chosen", "rejected", "margins", "accuracies"):
            theirs_now = theirs._metrics["eval"][f"rewards/{name}"][-1]
            assert metrics[f"rewards/{name}"].item() == pytest.approx(theirs_now, abs=1e-5), name


@pytest.mark.filterwarnings("ignore::Warning")
def test_smoothing_and_probabilities_are_trls_loss_of_both_orders(trainer: Any) -> None:
    """An annotator in four disagrees, or one answer in four is thought wrong: a quarter of the loss the other way."""
    for data, smoothing in ((pairs(probability=0.75), 0.0), (pairs(), 0.25)):
        agent, start, (samples,) = prepared("dpo", data, beta=0.3, label_smoothing=smoothing)
        theirs = trainer("DPO", agent, start, beta=0.3)
        right = of_pairs(samples)
        wrong = {name: torch.cat(tensor.chunk(2)[::-1]) for name, tensor in right.items()}
        one, other = (theirs._compute_loss(theirs.model, inputs, False) for inputs in (right, wrong))
        assert_equal_loss_and_gradients(agent.policy, agent._loss(samples)[0], 0.75 * one + 0.25 * other)


@pytest.mark.filterwarnings("ignore::Warning")
def test_ktos_loss_and_gradients_are_trls(trainer: Any) -> None:
    settings: Row = dict(beta=0.4, desirable_weight=1.0, undesirable_weight=1.5)
    agent, start, batches = prepared("kto", labels(), batch_size=16, tokens=400, learning_rate=3e-3, **settings)
    theirs, estimates = trainer("KTO", agent, start, **settings), []
    for samples in batches:
        own = sequences(samples)
        mixed = padded([(prompt, own[row - 1][1]) for row, (prompt, _) in enumerate(own)])
        inputs = padded(own) | {f"KL_{name}": tensor for name, tensor in mixed.items()}
        inputs["label"] = samples.one_by_episode(samples.returns) > 0.5
        loss, metrics = agent._loss(samples)
        assert_equal_loss_and_gradients(agent.policy, loss, theirs._compute_loss(theirs.model, inputs, False))
        assert metrics["kl"].item() == pytest.approx(theirs._metrics["eval"]["kl"][-1], abs=1e-5)
        estimates.append(metrics["kl"].item())
    assert max(estimates) > 0, "there is something to compare"


@pytest.mark.parametrize(
    "settings", [dict(train=1), dict(train="lora"), dict(micro_batch_size=2), dict(temperature=0.5)]
)
def test_the_loss_is_the_models_whatever_part_learns_and_however_it_decodes(settings: Row) -> None:
    """Before the first step the ratios are 1, so the loss is log 2."""
    if settings.get("train") == "lora":
        pytest.importorskip("peft")
    agent = build("dpo", pairs(), batch_size=None, **settings)
    agent.learn(1)
    assert agent.logger.name_to_value["train/loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert agent.policy.temperature == settings.get("temperature", 1.0)


def test_the_reference_is_the_policy_as_it_stood() -> None:
    """Also where the model was trained before in the same program: TRL reads it again from where it was loaded."""
    first = build("dpo", pairs(), learning_rate=1e-2).learn(400)
    second = build("dpo", pairs(), model=first.policy.language_model.model, batch_size=None)
    second.learn(1)
    assert second.logger.name_to_value["train/loss"] == pytest.approx(np.log(2), abs=1e-4)


def test_rows_are_read_as_the_environment_reads_texts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        dict(prompt="3", chosen="5 9 2", rejected="5"),
        dict(chosen="7 1 2", rejected="7 8", weight="2", probability="0.75"),  # the prompt is what both begin with
        dict(prompt="1", chosen=" ".join(["8"] * 12), rejected=" ".join(["8"] * 11)),  # the same once cut
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    batch = open_batch(agents.make_vec_env(ID, 2), 1)
    with caplog.at_level(logging.WARNING):
        (first, second), _ = read_logged(str(file), batch, PAIRS)
    assert [e.context["input_ids"].tolist() for e in first.episodes] == [[5, 7, 11, 4], [5, 7]]
    assert [e.actions.tolist() for e in first.episodes] == [[7, 11, 4, 1], [7, 1]], "EOS where there is room"
    assert [e.actions.tolist() for e in second.episodes] == [[3, 4, 1], [10, 1]]
    assert (first.share, first.weight, second.share, second.weight) == (1.0, 1.0, 0.75, 2.0)
    assert "1 of 3 rows: rows left out, because chosen and rejected are the same once cut" in caplog.text
    assert "2 of 3 rows: completions that lost their end" in caplog.text


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("dpo", dict(prompt="1", chosen="2"), "data, row 0: there is no 'rejected', only prompt, chosen"),
        ("dpo", dict(prompt="1", chosen="2", rejected="2"), "row 0: 'chosen' and 'rejected' are the same"),
        ("dpo", dict(prompt="1", chosen="2", rejected="3", probability=1.5), "row 0: probability=1.5"),
        ("dpo", dict(prompt="1", chosen="2", rejected="3", weight="x"), "row 0: weight is 'x', expected a number"),
        ("dpo", dict(prompt="1", chosen="2", rejected="3", weight=0), "row 0: weight=0.0"),
        ("kto", dict(prompt="1", completion="2", label=0.7), "row 0: the label is 0.7, expected true"),
        ("kto", dict(prompt="1", chosen="2", rejected="3"), "row 0: there is no 'completion'"),
    ],
)
def test_bad_rows_are_named(name: str, row: Row, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, [row])


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("dpo", dict(beta=0), "beta=0"),
        ("dpo", dict(label_smoothing=0.5), "label_smoothing=0.5"),
        ("dpo", dict(loss_type="ipo", label_smoothing=0.1), "with loss_type='ipo', which has none"),
        ("dpo", dict(kl_coef=0.1), "DPO makes no use of it .its KL penalty is weighed by beta"),
        ("kto", dict(desirable_weight=-1.0), "desirable_weight=-1.0"),
    ],
)
def test_wrong_arguments_are_named(name: str, wrong: Row, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, pairs() if name == "dpo" else labels(), **wrong)


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_without_rows_it_says_where_they_come_from(name: str) -> None:
    agent = build(name, None)
    with pytest.raises(ValueError, match="has no rows to learn from: give a file with rows of prompt"):
        agent.learn(10)


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_a_run_without_rows_ends_before_it_makes_a_folder(name: str, tmp_path: Path) -> None:
    config = TrainConfig(algo=name, env="rlhf/TokenBandit-v0", n_envs=2, n_timesteps=96, log_folder=str(tmp_path))
    with pytest.raises(ValueError, match="has no rows to learn from"):
        prepare(config)
    assert not [*tmp_path.rglob("*.json")] and not [*tmp_path.glob("*/*")]
    with pytest.raises(ValueError, match="has no rows to learn from"):
        describe_run(config)


def test_the_environments_own_rows_are_learned_where_they_have_pairs() -> None:
    rows = [row | {"split": "train" if i < 10 else "test"} for i, row in enumerate(pairs())]
    env = agents.make_vec_env("rlhf/Prompts-v0", 2, data=rows, reward="tiny-reward")
    assert len(build("dpo", None, env)._logged) == 10


def test_a_bundle_names_no_file_and_goes_on_with_the_one_it_is_given(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, pairs())))
    agent = build("dpo", str(file), batch_size=40).learn(150)
    agents.save(agent, tmp_path / "agent")
    assert "pairs.jsonl" not in (tmp_path / "agent" / "agent.json").read_text()
    with pytest.raises(ValueError, match="has no rows to learn from"):
        agents.load(tmp_path / "agent").learn(150, reset_num_timesteps=False)
    agent.learn(150, reset_num_timesteps=False)
    loaded = agents.load(tmp_path / "agent", data=str(file)).learn(150, reset_num_timesteps=False)
    for one, other in zip(agent.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    before = loaded._order
    loaded.set_data(pairs(5))
    assert len(before) == 12 and not len(loaded._order), "other rows, another pass"


def bandit_pairs(n: int = 2000) -> list[Row]:
    """Any two completions of the bandit, with the probability that an annotator prefers the first."""
    draw, rows = np.random.default_rng(0), bandit_rows()
    by_prompt = [[row for row in rows if row["prompt"] == prompt] for prompt in CONTEXTS]
    found = []
    for _ in range(n):
        rated = by_prompt[draw.integers(len(by_prompt))]
        one, other = (rated[i] for i in draw.choice(len(rated), 2, replace=False))
        share = 1 / (1 + np.exp(3 * (other["label"] - one["label"])))
        texts = dict(chosen=one["completion"], rejected=other["completion"])
        found.append(dict(prompt=one["prompt"], probability=share, **texts))
    return found


def test_pairs_alone_raise_the_objective() -> None:
    """They come from a Bradley-Terry model of three times the reward, so beta = 0.3 weighs the KL by 0.1."""
    env = agents.make_vec_env("rlhf/TokenBandit-v0", 32, seed=0)
    agent = build("dpo", bandit_pairs(), env, learning_rate=2e-3, beta=0.3, batch_size=384, n_steps=24).learn(24_000)
    figures = bandit_figures(agent, 0.1)
    assert figures["objective"] > figures["start"] + 0.1


def test_labels_alone_raise_the_reward() -> None:
    rows = [row | {"label": row["label"] > 0.2} for row in bandit_rows()]
    env = agents.make_vec_env("rlhf/TokenBandit-v0", 32, seed=0)
    settings: Row = dict(learning_rate=5e-3, beta=0.3, desirable_weight=2.5, batch_size=192, n_steps=24)
    agent = build("kto", rows, env, **settings).learn(32_000)
    figures = bandit_figures(agent, 0.1)
    assert figures["reward"] > figures["start"] + 0.1


def test_soft_pairs_of_one_half_teach_nothing() -> None:
    agent, _, (samples,) = prepared("dpo", pairs(probability=0.5))
    losses = agent._losses(torch.zeros(3))
    assert functional.mse_loss(losses, torch.full((3,), float(np.log(2)))).item() < 1e-12
    with torch.no_grad():
        for p, start in agent.policy.start_parameters().values():
            p.copy_(start)
    loss, _ = agent._loss(samples)
    grads = torch.autograd.grad(loss, [p for p in agent.policy.language_model.parameters() if p.requires_grad])
    assert max(float(g.abs().max()) for g in grads) < 1e-6
