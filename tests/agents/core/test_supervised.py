"""PPO-ptx: the gradient is that of the RL loss plus the data's cross-entropy, by transformers' own loss."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback

import agents
from agents import SequenceRolloutBuffer, TextMetrics, TokenPolicy, make, make_vec_env
from agents.core.examples import Example, encode_rows
from agents.core.supervised import open_data
from rlhf_envs.datasets import load_rows
from rlhf_envs.models import load_tokenizer
from tests.agents.core.test_update import ACTIONS, LENGTH, sequences

ID, COEF = "rlhf/IncreasingNumbers-v0", 1.7
EXAMPLES = [  # a prompt and a completion; two turns; a text without a prompt
    Example([3, 4, 5, 6, 1], [-100, -100, 5, 6, 1]),
    Example([8, 9, 4, 1, 7, 2, 6, 1], [-100, 9, 4, -100, -100, 2, 6, 1]),
    Example([5, 5, 1], [5, 5, 1]),
]
ROWS = [{"prompt": str(i), "completion": f" {i + 1} {i + 2}", "split": "train"} for i in range(20)]
RUNS = dict(n_envs=6, seed=0, device="cpu", learning_rate=1e-2)
LEARNING = ["ppo", "a2c", "ppo_lagrangian", "maskable_ppo", "nlpo", "reinforce", "rloo", "grpo", "online_dpo", "awr"]


def make_policy(small_model, token_spaces, shape="gpt2", coef=None, **kwargs: Any) -> TokenPolicy:
    kwargs |= {} if coef is None else {"sft_coef": coef, "sft_data": [], "sft_batch_size": 16}  # one pass, exactly
    policy = TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-3, model=small_model(shape), **kwargs)
    if policy.sft is not None:
        policy.sft._examples = EXAMPLES
    torch.manual_seed(0)
    for name, parameter in policy.named_parameters():
        if name.startswith("value_net") or "lora_B" in name:  # these start at 0
            torch.nn.init.normal_(parameter, std=0.1)
    return policy


def loss_of(values, log_probs, entropies) -> torch.Tensor:
    weights = torch.linspace(-1, 2, len(log_probs))
    return values.flatten() @ weights + log_probs.exp() @ weights + 0.3 * (entropies**2) @ weights


def cross_entropy(model: Any, examples: list[Example] = EXAMPLES) -> torch.Tensor:
    """The loss of transformers, with labels and padding of its own form."""
    padded = [
        torch.nn.utils.rnn.pad_sequence([torch.tensor(x) for x in column], batch_first=True, padding_value=fill)
        for column, fill in (
            ([example.ids for example in examples], 0),
            ([example.labels for example in examples], -100),
            ([[1] * len(example.ids) for example in examples], 0),
        )
    ]
    ids, labels, mask = padded
    return model(input_ids=ids, labels=labels, attention_mask=mask, use_cache=False).loss


def gradients(policy: TokenPolicy) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def trained_gradients(policy: TokenPolicy, obs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    policy.zero_grad()
    loss_of(*policy.evaluate_actions(obs, ACTIONS)).backward()
    return gradients(policy)


def expected_gradients(plain: TokenPolicy, coef: float) -> dict[str, torch.Tensor]:
    plain.zero_grad()
    loss = loss_of(*plain.evaluate_actions(sequences(), ACTIONS))
    (loss + coef * cross_entropy(plain.language_model.model)).backward()
    return gradients(plain)


def check_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol=2e-5, rtol=1e-3) -> None:
    assert one.keys() == other.keys() and len(one) >= 3
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=atol, rtol=rtol, msg=lambda m, n=name: f"{n}: {m}")


SETTINGS: list[dict[str, Any]] = [{}, {"train": 1}, {"train": "head"}, {"train": "lora"}, {"value": "separate"}]
SETTINGS += [{"temperature": 0.7, "top_k": 5}, {"gradient_checkpointing": True}]


@pytest.mark.parametrize(
    ("shape", "settings"), [("llama", {}), ("llama", {"train": 1}), *(("gpt2", settings) for settings in SETTINGS)]
)
def test_the_gradient_is_that_of_the_rl_loss_plus_the_cross_entropy(small_model, token_spaces, shape, settings):
    plain = make_policy(small_model, token_spaces, shape, **settings)
    policy = make_policy(small_model, token_spaces, shape, COEF, **settings)
    obs = sequences()
    expected = expected_gradients(plain, COEF)
    check_equal(trained_gradients(policy, obs), expected)
    loss = cross_entropy(policy.language_model.model).item()
    assert policy.sft.take_metrics()["sft_loss"] == pytest.approx(loss, rel=1e-5)
    without = expected_gradients(plain, 0.0)
    assert any((expected[name] - without[name]).abs().max() > 1e-3 for name in without), "the loss is felt"


@pytest.mark.parametrize("train", [1, "head"])
def test_a_stored_trunk_is_of_the_rollout_alone(small_model, token_spaces, train):
    policy = make_policy(small_model, token_spaces, coef=COEF, train=train)
    stored = sequences() | {"trunk_states": policy.trunk_states(sequences())}
    check_equal(trained_gradients(policy, stored), trained_gradients(policy, sequences()))


@pytest.mark.parametrize("size", [1, 9, 1000])
def test_micro_batches_add_up_to_the_batch(small_model, token_spaces, size):
    for settings in ({}, {"train": 1}):
        whole, parts = (
            make_policy(small_model, token_spaces, coef=COEF, micro_batch_size=s, **settings) for s in (None, size)
        )
        check_equal(trained_gradients(parts, sequences()), trained_gradients(whole, sequences()))
        assert parts.sft.take_metrics() == pytest.approx(whole.sft.take_metrics(), rel=1e-4)


def test_bf16_agrees_within_its_precision(small_model, token_spaces):
    plain, half = (make_policy(small_model, token_spaces, coef=COEF, bf16=bf16) for bf16 in (False, True))
    trained_gradients(plain, sequences()), trained_gradients(half, sequences())
    one, other = (policy.sft.take_metrics()["sft_loss"] for policy in (plain, half))
    assert other == pytest.approx(one, rel=0.02) and other != one


def test_what_is_evaluated_does_not_change_and_nothing_is_drawn_without_a_gradient(small_model, token_spaces):
    plain, policy = (make_policy(small_model, token_spaces, coef=coef) for coef in (None, COEF))
    with torch.no_grad():
        policy.evaluate_actions(sequences(), ACTIONS)
    assert policy.sft.take_metrics() == {} and policy.sft_state[1] == 0
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    results = [one.evaluate_actions(sequences(), ACTIONS) for one in (plain, policy)]
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()


# Batches


def drawn(policy: TokenPolicy) -> list[int]:
    return [EXAMPLES.index(example) for example in policy.sft._draw(policy.sft_state)]


def test_each_pass_draws_every_example_once_in_an_order_of_the_seed(small_model, token_spaces):
    def passes(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        policy = TokenPolicy(
            *token_spaces(LENGTH), lambda _: 1e-3, model=small_model("gpt2", seed), sft_coef=1.0, sft_data=[]
        )
        policy.sft._examples, policy.sft.batch_size = EXAMPLES, 1
        return [[drawn(policy)[0] for _ in EXAMPLES] for _ in range(12)]

    one = passes(0)
    assert all(sorted(order) == [0, 1, 2] for order in one) and len({*map(tuple, one)}) > 2
    assert passes(0) == one != passes(1)


def test_a_batch_ends_when_it_has_its_tokens(small_model, token_spaces):
    policy = make_policy(small_model, token_spaces, coef=COEF)
    for size in (1, 8, 16, 17, 60):
        policy.sft.batch_size = size
        lengths = [len(EXAMPLES[i].ids) for i in drawn(policy)]
        assert sum(lengths) >= size > sum(lengths[:-1])


# In every algorithm


class Stop(Exception):
    """Ends a training at its first gradient step."""


def first_gradient(agent: Any) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}

    def look(*_: Any) -> None:
        found.update(gradients(agent.policy))
        raise Stop

    agent.policy.optimizer.register_step_pre_hook(look)
    torch.manual_seed(1), np.random.seed(1)
    with pytest.raises(Stop):
        agent.learn(10_000)
    return found


def check_first_step(build: Any) -> None:
    """The first step's gradient minus that without the data is the gradient of the data's cross-entropy."""
    plain, agent = build({}), build(dict(sft_coef=COEF, sft_data=ROWS, sft_batch_size=80))
    open_data(agent)
    examples = agent.policy.sft._examples
    assert sum(len(example.ids) for example in examples) == 80  # one pass: 20 rows of 4 tokens
    without, found = first_gradient(plain), first_gradient(agent)
    agent.policy.zero_grad()
    (COEF * cross_entropy(agent.policy.language_model.model, examples)).backward()
    added = gradients(agent.policy)
    check_equal(found, {name: grad + added.get(name, 0) for name, grad in without.items()}, atol=5e-5)


@pytest.mark.parametrize("name", LEARNING)
def test_every_algorithm_that_learns_by_its_policys_likelihoods_has_it(name):
    given: dict[str, Any] = dict(RUNS, n_envs=8, max_grad_norm=1e9)
    given |= dict(cost="repetition", cost_limit=0.1) if name == "ppo_lagrangian" else {}
    check_first_step(lambda supervised: make(name, ID, **given, **supervised))


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_stock_algorithms_have_it(algorithm):
    more = {"batch_size": 84, "n_epochs": 1} if algorithm is PPO else {}
    check_first_step(
        lambda supervised: algorithm(
            TokenPolicy,
            make_vec_env(ID, 6, seed=0),
            n_steps=14,
            seed=0,
            max_grad_norm=1e9,
            rollout_buffer_class=SequenceRolloutBuffer,
            policy_kwargs=supervised,
            device="cpu",
            **more,
        )
    )


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("trpo", ValueError, r"sft_coef=1\.0: TRPO's update never asks"),
        ("sft", ValueError, r"sft_coef=1\.0: SFT makes no use of it"),
        ("random", ValueError, r"sft_coef=1\.0: Random makes no use"),
        ("best_of_n", ValueError, r"sft_coef=1\.0: BestOfN makes no use"),
        ("dqn", TypeError, "dqn takes no argument 'sft_coef'"),
        ("ilql", TypeError, "ilql takes no argument 'sft_coef'"),
    ],
)
def test_the_others_refuse_it_by_name(name, error, message):
    with pytest.raises(error, match=message):
        make(name, ID, n_envs=4, device="cpu", sft_coef=1.0, sft_data=ROWS)


# Runs


def weights_after(rollouts: int, **kwargs: Any) -> tuple[Any, list[torch.Tensor]]:
    agent = make("ppo", ID, **RUNS, **({"sft_batch_size": 30, "n_epochs": 1} | kwargs))
    torch.manual_seed(1), np.random.seed(1)
    for _ in range(rollouts):
        agent.learn(agent.n_steps * 6, reset_num_timesteps=agent.num_timesteps == 0)
    return agent, [p.detach() for p in agent.policy.parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_coefficient_of_0_is_bit_for_bit_none():
    _, never_heard_of = weights_after(2)
    assert same(weights_after(2, sft_coef=0, sft_data="none.jsonl")[1], never_heard_of)
    assert not same(weights_after(2, sft_coef=0.5, sft_data=ROWS)[1], never_heard_of)


def test_training_goes_on_from_a_bundle_and_from_a_zip_exactly(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    given = dict(sft_coef=0.5, sft_data=str(file))
    _, whole = weights_after(2, **given)
    half, _ = weights_after(1, **given)
    half.save(tmp_path / "agent.zip")
    agents.save(half, tmp_path / "bundle")
    from_zip = agents.load(tmp_path / "agent.zip", half.get_env(), algorithm="ppo", trust_pickle=True)
    assert from_zip.policy.sft_state.tolist() == half.policy.sft_state.tolist() != [0, 0]
    with pytest.raises(ValueError, match=r"data\.jsonl', which is not read just because .*bundle says so: pass it"):
        agents.load(tmp_path / "bundle").learn(60, reset_num_timesteps=False)
    resumed = agents.load(tmp_path / "bundle", policy_kwargs=dict(sft_data=str(file)))
    resumed.learn(60, reset_num_timesteps=False)
    assert same([*resumed.policy.parameters()], whole)


def test_a_loss_may_come_and_go_where_training_goes_on(tmp_path):
    plain, _ = weights_after(1)
    agents.save(plain, tmp_path / "plain")
    more = agents.load(tmp_path / "plain", policy_kwargs=dict(sft_coef=0.5, sft_data=ROWS))
    more.learn(60, reset_num_timesteps=False)
    assert more.policy.sft.take_metrics()["sft_loss"] > 0
    agents.save(more, tmp_path / "more")
    less = agents.load(tmp_path / "more", policy_kwargs=dict(sft_coef=0))
    less.learn(60, reset_num_timesteps=False)
    assert agents.load(tmp_path / "more").learn(60).policy.sft.take_metrics(), "rows are in the bundle"


def test_the_loss_is_logged():
    rows: list[float | None] = []

    class Log(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            rows.append(self.logger.name_to_value.get("rlhf/sft_loss"))

    agent = make("ppo", ID, **RUNS, sft_coef=1.0, sft_data=ROWS, sft_batch_size=80, n_epochs=1)
    agent.learn(4 * agent.n_steps * 6, callback=[TextMetrics(), Log()])
    assert rows[0] is None and rows[1] > rows[2] > rows[3] > 0


# Data


def read(rows: Any, env: Any = ID, **kwargs: Any) -> list[Example]:
    return make("ppo", env, sft_coef=1.0, sft_data=rows, device="cpu", **kwargs).policy.sft._examples


def test_only_the_training_split_is_learned():
    named = [{**row, "split": "train" if i < 3 else "test"} for i, row in enumerate(ROWS)]
    assert [example.ids[0] for example in read(named, n_envs=2)] == [2, 3, 4]  # the words 0, 1 and 2
    hashed = read([{"prompt": " ".join(f"{i:02d}"), "completion": " 3"} for i in range(30)], n_envs=2)
    assert len(hashed) < 30


def test_texts_longer_than_a_context_are_cut_and_counted(caplog):
    rows = [{"prompt": "1 2", "completion": " 3" * 40}, {"prompt": "4" + " 5" * 40, "completion": " 6"}]
    rows += [{"prompt": "1", "completion": " "}, {"prompt": "", "completion": "1 2"}]
    with caplog.at_level(logging.WARNING):
        long, asked, free = read(rows, n_envs=2)
    assert {len(long.ids), len(asked.ids)} == {11}  # one token of a prompt and ten new ones
    assert long.labels[-1] == long.ids[-1] == 5 and asked.labels[-2:] == [8, 1] and free.labels == [3, 4, 1]
    for count in ("completions that lost their end", "prompts that lost their beginning", "the completion is empty"):
        assert f"1 of 4 rows: {count}" in caplog.text.replace("rows left out, because ", "")


BAD_ROWS = [{"prompt": "1", "completion": "2"}, {"prompt": "1"}]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (dict(sft_coef=-1.0, sft_data=ROWS), ValueError, r"sft_coef=-1\.0: expected a number of at least 0"),
        (dict(sft_coef=float("nan"), sft_data=ROWS), ValueError, "sft_coef=nan: expected"),
        (dict(sft_coef=float("inf"), sft_data=ROWS), ValueError, "sft_coef=inf: expected"),
        (dict(sft_coef=0.1), ValueError, r"sft_coef=0\.1 without data: give the file"),
        (
            dict(sft_data=ROWS),
            ValueError,
            r"sft_data=\[20 rows\] without a weight in the loss: give it",
        ),
        (dict(sft_coef=0.1, sft_data=ROWS, sft_batch_size=0), ValueError, "sft_batch_size=0: expected"),
        (dict(sft_coef=0.1, sft_data="none.jsonl"), FileNotFoundError, r"none\.jsonl"),
        (dict(sft_coef=0.1, sft_data=[]), ValueError, "there are no rows"),
        (dict(sft_coef=0.1, sft_data=[{"prompt": "1", "completion": ""}]), ValueError, "no completion is left"),
        (dict(sft_coef=0.1, sft_data=BAD_ROWS), ValueError, "the rows, row 2: .*completion"),
        (
            dict(sft_coef=0.1, sft_data=[{"prompt": "1", "completion": "2 zebra"}]),
            ValueError,
            "the rows, row 1: words outside the vocabulary: zebra; write texts in its words",
        ),
        (dict(sft_coef="much", sft_data=ROWS), TypeError, "sft_coef='much': expected a number"),
    ],
)
def test_bad_input_is_refused_before_training(given, error, message):
    with pytest.raises(error, match=message):
        make("ppo", ID, n_envs=2, device="cpu", **given)


def test_a_model_without_a_tokenizer_needs_an_environment_that_has_one(small_model, token_spaces):
    policy = TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-3, model=small_model("gpt2"), sft_coef=1.0, sft_data=ROWS)
    with pytest.raises(ValueError, match="neither the environment nor the model has a tokenizer"):
        policy.evaluate_actions(sequences(), ACTIONS)


def test_a_stock_agent_reads_by_its_models_own_tokenizer(tmp_path: Path):
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps({"prompt": "the film was", "completion": " good"}) + "\n")
    env = make_vec_env("rlhf/Prompts-v0", 2, data=[{"prompt": "the film"}], reward="repetition", max_new_tokens=4)
    stock = TokenPolicy(
        env.observation_space, env.action_space, lambda _: 1e-3, model="tiny", sft_coef=1.0, sft_data=file
    )
    stock.sft.open(stock)
    assert stock.sft._examples == read(str(file), env)


# What it is for


def praise(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """A reward that is hacked in no time."""
    return [float(completion.count("good")) for completion in completions]


def held_out_loss(seed: int, **supervised: Any) -> tuple[float, float]:
    """Return the cross-entropy of 64 held-out reviews before and after PPO at a high rate and without a penalty."""
    rows = load_rows("sentiment", "validation")[:64]
    texts = [{"prompt": row["prompt"], "completion": row["reference"]} for row in rows]
    tokenizer = load_tokenizer("tiny")
    examples, _ = encode_rows(tokenizer, texts, 64, [tokenizer.eos_token_id], "cut")
    env = make_vec_env("rlhf/Sentiment-v0", 32, seed=seed, reward_fn=praise, max_new_tokens=16)
    agent = make("ppo", env, seed=seed, device="cpu", kl_coef=0.0, learning_rate=1e-3, batch_size=128, **supervised)
    model = agent.policy.language_model.model
    with torch.no_grad():
        before = cross_entropy(model, examples).item()
    agent.learn(5 * 32 * 16)
    with torch.no_grad():
        return before, cross_entropy(model, examples).item()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_the_data_teach_is_not_unlearned(seed: int):
    rows = [{**row, "completion": row["reference"]} for row in load_rows("sentiment", "train")]
    before, after = held_out_loss(seed)
    _, kept = held_out_loss(seed, sft_coef=1.0, sft_data=rows, sft_batch_size=256)
    print(f"seed {seed}, nats per token: {before:.2f} before, {after:.2f} by RL alone, {kept:.2f} with the loss")
    assert after > before + 2, "RL alone unlearns it"
    assert kept < before + 1
