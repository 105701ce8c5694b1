"""ILQL against the paper's losses in numpy, and from logged completions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import agents
from agents.algorithms.common.logged_data import read_log
from rlhf_envs.tasks.token_bandit import CONTEXTS, completion_rewards, enumerate_completions
from tests.agents.algorithms.test_dqn import best_return, naive

ID = "rlhf/IncreasingNumbers-v0"


def build(**kwargs: Any) -> Any:
    settings: dict[str, Any] = dict(train_freq=10, gradient_steps=2, batch_size=40, learning_rate=1e-2)
    return agents.make("ilql", ID, n_envs=4, seed=0, device="cpu", **(settings | kwargs))


def bandit_rows(seed: int = 0) -> list[dict[str, Any]]:
    """All completions of all prompts in text, rated."""
    rows = []
    for prompt in CONTEXTS:
        completions = [c for c in enumerate_completions() if 0 not in c and c != (1,)]
        letters = [" ".join("abcdef"[token - 2] for token in c if token > 1) for c in completions]
        ratings = completion_rewards(prompt, completions)
        rows += [dict(prompt=prompt, completion=t, label=float(r)) for t, r in zip(letters, ratings, strict=True)]
    return rows


@pytest.mark.parametrize("nll_coef", [0.0, 0.5])
def test_losses_and_gradients_equal_a_naive_reference(nll_coef: float) -> None:
    """Each state encoded alone, the losses of section 4 of the paper in plain torch and numpy."""
    agent = build(nll_coef=nll_coef, imitates=nll_coef > 0, expectile=0.7, cql_coef=0.3).learn(400)
    policy, batch, n = agent.policy, agent.replay_buffer.sample(40), 40
    q, v, following, target, log_prob = [], [], [], [], []
    for i in range(n):
        state, later = naive(batch.observations, i), naive(batch.next_observations, i)
        hidden = policy.language_model.model.base_model(**state).last_hidden_state[:, -1]
        after = policy.language_model.model.base_model(**later).last_hidden_state[:, -1]
        q.append(policy.q_head(hidden)[0])
        v.append(policy.value_net(hidden)[0, 0])
        following.append(policy.value_net(after).item())
        copied = policy.target_trunk(**state).last_hidden_state[:, -1]
        target.append(policy.target_head(copied)[0, :, batch.actions[i, 0]].detach().numpy())
        log_prob.append(policy.language_model.model(**state).logits[0, -1, : policy.n_actions].log_softmax(-1))
    actions, rewards, dones = (x.numpy()[:, 0] for x in (batch.actions, batch.rewards, batch.dones))
    regression = rewards + (1 - dones) * np.array(following)
    q_taken = torch.stack([q[i][:, actions[i]] for i in range(n)])  # (n, 2)
    lower = np.array(target).min(axis=1)
    values = torch.stack(v)
    weight = np.where(lower - values.detach().numpy() < 0, 0.3, 0.7)
    expected = {
        "q_loss": ((q_taken - torch.tensor(regression)[:, None]) ** 2).mean(dim=0).sum(),
        "value_loss": (torch.tensor(weight) * (torch.tensor(lower) - values) ** 2).mean(),
        "cql": (torch.stack(q).logsumexp(dim=2) - q_taken).mean(dim=0).sum(),
    }
    loss = expected["q_loss"] + expected["value_loss"] + 0.3 * expected["cql"]
    if nll_coef:
        expected["nll"] = -torch.stack([log_prob[i][actions[i]] for i in range(n)]).mean()
        loss = loss + nll_coef * expected["nll"]
    found = agent.losses(batch)
    assert set(found) == {"loss", *expected}
    for name, value in {**expected, "loss": loss}.items():
        assert found[name].item() == pytest.approx(value.item(), abs=1e-5), name
    policy.optimizer.zero_grad()
    loss.backward()
    by_hand = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.optimizer.zero_grad()
    found["loss"].backward()
    assert {name for name, p in policy.named_parameters() if p.grad is not None} == set(by_hand)
    for name, p in policy.named_parameters():
        if name in by_hand:
            torch.testing.assert_close(p.grad, by_hand[name].float(), atol=1e-5, rtol=1e-4)


def test_the_log_is_the_references_however_much_is_learned() -> None:
    """Every token of it is counted and kept, and what is learned meanwhile changes none."""
    logs, heads = [], []
    for learning_rate in (1e-2, 1e-9):
        agent = build(gradient_steps=1, batch_size=40, learning_rate=learning_rate).learn(800)
        assert agent.num_timesteps == agent.replay_buffer.size() == 800
        assert agent._n_updates == 20
        logs.append(agent.replay_buffer.get_state()["actions"])
        heads.append(agent.policy.state_dict()["q_head.advantage.weight"])
    np.testing.assert_array_equal(*logs)
    assert not torch.allclose(*heads, atol=1e-3)


def test_acting_weighs_the_base_by_the_advantage() -> None:
    agent = build(beta=3.0, top_k=None).learn(400)
    batch = agent.replay_buffer.sample(20)
    acting, base = agent.policy.acting_and_base(batch.observations)
    with torch.no_grad():
        q = agent.policy.q_net(batch.observations).amin(dim=1)
        v = agent.policy.predict_values(batch.observations)
    weights = base.exp() * torch.exp(3.0 * (q - v))
    torch.testing.assert_close(acting.exp(), weights / weights.sum(dim=1, keepdim=True), atol=1e-5, rtol=1e-4)


def test_logged_rows_are_what_the_environment_would_have_stored(tmp_path: Path) -> None:
    """A log of the agent's own, written out as text and read again, gives the same transitions."""
    file = tmp_path / "log.jsonl"
    rows = [
        dict(prompt="3", completion="5 9 2", label=0.25),
        dict(prompt="7", completion=" ".join(["8"] * 12), label=True),
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    env = agents.make_vec_env(ID, 2)
    contexts, n_prompt, scores = read_log(str(file), env)
    assert [c.tolist() for c in contexts] == [[5, 7, 11, 4, 1], [9, *[10] * 10]], "EOS where there is room, else a cut"
    assert (n_prompt, scores) == ([1, 1], [0.25, 1.0])
    agent = agents.make("ilql", env, seed=0, device="cpu", data=str(file), batch_size=14, gradient_steps=1).learn(28)
    batch = agent.replay_buffer.sample(14)
    order = np.lexsort((batch.observations["columns"], batch.observations["input_ids"][batch.observations["rows"], 0]))
    assert batch.actions.flatten()[order].tolist() == [7, 11, 4, 1, *[10] * 10]
    assert batch.rewards.flatten()[order].tolist() == [0, 0, 0, 0.25, *[0] * 9, 1]
    assert batch.dones.flatten()[order].tolist() == [0, 0, 0, 1, *[0] * 9, 1]
    assert agent.replay_buffer.size() == 14, "no token of its own"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "data has no rows"),
        ([dict(prompt="1", label=1)], r"data, row 0 has no 'completion'"),
        ([dict(prompt="1", completion="2", label="good")], "row 0: the label is 'good', expected a finite number"),
        ([dict(prompt="1", completion="2", label=float("nan"))], "row 0: the label is nan"),
        ([dict(prompt="", completion="2", label=1)], "row 0: the prompt or the completion has no tokens"),
    ],
)
def test_bad_rows_are_named(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(data=rows).learn(80)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(expectile=1.0), "expectile=1.0"),
        (dict(nll_coef=0.1), "nll_coef=0.1 with imitates=False: they go together"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**wrong)


def test_a_log_that_does_not_fit_is_refused_and_not_cut() -> None:
    with pytest.raises(ValueError, match=r"data has \d+ rated completions and buffer_size=60 keeps \d+: raise it to"):
        agents.make("ilql", "rlhf/TokenBandit-v0", n_envs=4, device="cpu", data=bandit_rows(), buffer_size=60).learn(80)


SETTINGS: dict[str, Any] = dict(learning_rate=3e-3, gradient_steps=8, batch_size=1024, expectile=0.95, beta=30.0)
SETTINGS |= dict(cql_coef=0.0)


@pytest.mark.slow
def test_rated_completions_alone_are_on_the_way_to_the_best_return() -> None:
    env = agents.make_vec_env("rlhf/TokenBandit-v0", 16, seed=0)
    agent = agents.make("ilql", env, seed=0, device="cpu", data=bandit_rows(), **SETTINGS)
    before, best = best_return(agent)
    after, _ = best_return(agent.learn(360 * 1024))
    assert after - before > 0.4 * (best - before), (before, after, best)
