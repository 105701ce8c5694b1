"""AWR, best of n, supervised fine-tuning and random tokens, against numpy, enumeration and Hugging Face's own loss."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import agents
from agents.cli.tables import evaluation_table
from agents.core.models import build_model
from agents.evaluation import generate as generation
from agents.evaluation.evaluate import evaluate
from agents.testing import check_algorithm
from agents.training.run import TrainConfig, train
from rlhf_envs.registration import register_task
from rlhf_envs.tasks import WordTask
from rlhf_envs.tasks.token_bandit import completion_rewards, enumerate_completions

BANDIT, CYCLE = "rlhf/TokenBandit-v0", "test/Cycle-v0"
LETTERS = "abcdef"
EOS, HORIZON = 1, 3


class Cycle(WordTask):
    """Two letters, and the reference goes on from the second through the alphabet, round and round."""

    name = "cycle"
    default_reward = "token-bandit"
    words = tuple(LETTERS)
    max_prompt_tokens = 2
    max_new_tokens = HORIZON

    def rows(self, split: str, data: Any) -> list[dict[str, Any]]:
        """24 of the 36 prompts to train on, and the other 12."""
        if data is not None:
            return super().rows(split, data)
        pairs = [(i, j) for i in range(6) for j in range(6) if ((i + j) % 3 == 0) == (split != "train")]
        return [
            {"prompt": f"{LETTERS[i]} {LETTERS[j]}", "reference": f"{LETTERS[(j + 1) % 6]} {LETTERS[(j + 2) % 6]}"}
            for i, j in pairs
        ]


register_task(CYCLE, f"{__name__}:Cycle")


def make(name: str, env: Any = BANDIT, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return agents.make(name, env, seed=0, device="cpu", **kwargs)


def sgd(name: str, env: Any, **kwargs: Any) -> Any:
    """An agent whose one step of learning rate 1 a rollout is its gradient."""
    whole = dict(batch_size=None, n_epochs=1, max_grad_norm=1e9)
    return make(name, env, learning_rate=1.0, optimizer_class=torch.optim.SGD, **whole, **kwargs)


def roll_out(agent: Any) -> Any:
    """The buffer after a rollout, before any update."""
    callback = agent._setup_learn(10_000, None)[1]
    callback.on_training_start({}, {})
    assert agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    return agent.rollout_buffer


def parts(buffer: Any) -> list[tuple[list[int], list[int]]]:
    """Prompt and actions of every sequence in a buffer."""
    found = []
    for row in range(buffer.n_segments):
        of_row = buffer.segments[:, 0] == row
        prompt = buffer.observations["input_ids"][row, : buffer.columns[of_row, 0][0] + 1].tolist()
        found.append((prompt, buffer.actions[of_row, 0, 0].tolist()))
    return found


def padded(sequences: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """What a Hugging Face model takes: prompts are masked out of the labels with -100, and so is padding."""
    length = max(len(prompt) + len(actions) for prompt, actions in sequences)
    ids, mask = (torch.zeros((len(sequences), length), dtype=torch.long) for _ in range(2))
    labels = torch.full_like(ids, -100)
    for row, (prompt, actions) in enumerate(sequences):
        whole = torch.tensor([*prompt, *actions])
        ids[row, : len(whole)], mask[row, : len(whole)] = whole, 1
        labels[row, len(prompt) : len(whole)] = whole[len(prompt) :]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def references(rows: list[dict[str, Any]]) -> list[tuple[list[int], list[int]]]:
    """Prompt and reference as token ids, with EOS: word i of the vocabulary is token i + 2."""
    ids = [[[LETTERS.index(word) + 2 for word in row[key].split()] for key in ("prompt", "reference")] for row in rows]
    return [(prompt, [*reference, EOS]) for prompt, reference in ids]


@torch.no_grad()
def log_probs(model: Any, prompt: int) -> np.ndarray:
    """Log-probabilities (400,) of `enumerate_completions()` after a prompt of one token, by a Hugging Face model."""
    batch = padded([([prompt], list(ids)) for ids in enumerate_completions()])
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1, :8].double()
    labels = batch["labels"][:, 1:]
    nats = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
    return -nats.sum(dim=1).numpy()


def peaked_model() -> Any:
    """A model for the bandit that is far from uniform."""
    torch.manual_seed(3)
    model = build_model(8, 8, n_layer=1, n_embd=16, n_head=2).eval()
    with torch.no_grad():
        model.transformer.wte.weight.mul_(20)
    return model


# AWR


def test_awr_steps_along_the_gradient_of_the_weighted_likelihood():
    """Loss and gradient of both heads of a frozen trunk, in numpy from the hidden states on."""
    beta, cap, vf_coef, kl_coef = 0.5, 2.0, 0.7, 0.3
    given = dict(awr_temperature=beta, max_weight=cap, vf_coef=vf_coef, kl_coef=kl_coef)
    agent = sgd("awr", BANDIT, n_envs=16, n_steps=6, train="head", **given)
    policy, model = agent.policy, agent.policy.language_model.model
    start = model.get_output_embeddings().weight.detach().clone().double().numpy()
    with torch.no_grad():  # away from the reference, with values that are not 0
        model.get_output_embeddings().weight.add_(0.3 * torch.randn(8, 64))
        policy.value_net.weight.normal_(0, 0.05)
        policy.value_net.bias.fill_(0.1)
    head, value, bias = (
        p.detach().clone().double().numpy()
        for p in (model.get_output_embeddings().weight, policy.value_net.weight, policy.value_net.bias)
    )
    sequences = parts(roll_out(agent))
    agent.train()

    hidden, actions, to_go, ahead = [], [], [], []
    for prompt, taken in sequences:
        with torch.no_grad():
            states = model.transformer(torch.tensor([[*prompt, *taken[:-1]]])).last_hidden_state[0].double().numpy()
        score = completion_rewards(LETTERS[prompt[0] - 2], [taken])[0]
        kl = [_log_softmax(head @ h)[a] - _log_softmax(start @ h)[a] for h, a in zip(states, taken, strict=True)]
        to_go += [score - kl_coef * sum(kl[t:]) for t in range(len(taken))]
        hidden += list(states)
        actions += taken
        ahead += [len(taken) - 1 - t for t in range(len(taken))]
    h, r, n = np.array(hidden), np.array(to_go), len(actions)
    v = h @ value[0] + bias
    advantages = (r - v - (r - v).mean()) / (r - v).std()
    w = np.minimum(np.exp(advantages / beta), cap)
    assert 0 < (w == cap).sum() < n and max(ahead) == 2, "some are capped, some are not"
    logs = np.array([_log_softmax(head @ x) for x in h])
    loss = -(w * logs[np.arange(n), actions]).mean() + vf_coef * ((v - r) ** 2).mean()
    on_logits = w[:, None] * (np.exp(logs) - np.eye(8)[actions]) / n
    on_values = 2 * vf_coef * (v - r) / n

    logged = agent.logger.name_to_value
    assert logged["train/loss"] == pytest.approx(loss, rel=1e-4)
    assert logged["train/weight"] == pytest.approx(w.mean(), rel=1e-4)
    now = model.get_output_embeddings().weight.detach().numpy()
    np.testing.assert_allclose(head - now, on_logits.T @ h, atol=2e-5)
    np.testing.assert_allclose(value - policy.value_net.weight.detach().numpy(), [on_values @ h], atol=2e-5)
    np.testing.assert_allclose(bias - policy.value_net.bias.detach().numpy(), [on_values.sum()], atol=2e-5)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits)


# Best of n


def expected_maximum(rewards: np.ndarray, probabilities: np.ndarray, n: int) -> float:
    """E max of n independent draws: every value times the probability that it is the maximum, F(x)^n - F(x-)^n."""
    values, place = np.unique(rewards, return_inverse=True)
    cumulated = np.cumsum(np.bincount(place, weights=probabilities))
    return float(values @ np.diff(np.concatenate([[0.0], cumulated]) ** n))


@pytest.mark.parametrize("n", [1, 5])
def test_best_of_n_has_the_expected_reward_of_the_maximum(n):
    agent = make("best_of_n", n_envs=4, best_of=n, model=peaked_model())
    result = evaluate(agent, BANDIT, n_episodes=1200)
    model, expected = agent.policy.language_model.model, []
    for k, letter in enumerate("abcd"):
        rewards = completion_rewards(letter, enumerate_completions())
        expected.append([expected_maximum(rewards, np.exp(log_probs(model, 2 + k)), m) for m in (n, 2 * n)])
    exactly, twice = np.mean(expected, axis=0)
    within = result.reward.std(ddof=1) / math.sqrt(1200)  # prompts are taken in turn, so it is a little less
    assert abs(result.reward.mean() - exactly) < 4 * within
    assert abs(result.reward.mean() - twice) > 4 * within, "the check is a sharp one"
    np.testing.assert_allclose(result.kl, math.log(n) - (n - 1) / n, atol=1e-4)  # it is the reference itself
    assert result.completions_per_prompt == result.to_dict()["completions_per_prompt"] == n


def test_best_of_n_decodes_one_completion_where_all_would_be_the_same(monkeypatch):
    agent = make("best_of_n", n_envs=4, best_of=4, model=peaked_model())
    decoded, complete = [], generation._complete

    def counted(batch: Any, policy: Any, indices: np.ndarray, *args: Any) -> Any:
        decoded.append(len(indices))
        return complete(batch, policy, indices, *args)

    monkeypatch.setattr(generation, "_complete", counted)
    drawn = evaluate(agent, BANDIT, n_episodes=8)
    assert sum(decoded) == 8 * 4
    assert drawn.kl.mean() > 0.6
    assert "best of 4" in str(evaluation_table(drawn).caption)
    decoded.clear()
    greedy = evaluate(agent, BANDIT, n_episodes=8, deterministic=True)
    assert sum(decoded) == 8 and greedy.completions_per_prompt == 1
    np.testing.assert_allclose(greedy.kl, 0, atol=1e-4)
    assert "best of" not in str(evaluation_table(greedy).caption)
    alone = evaluate(agent.policy, BANDIT, n_episodes=8, deterministic=True)
    assert [c.completion for c in greedy.completions] == [c.completion for c in alone.completions]


def run(tmp_path: Any, algo: str, **kwargs: Any) -> Any:
    small = dict(n_timesteps=24, n_envs=4, test_episodes=16, eval_freq=0, progress=False, device="cpu")
    return train(TrainConfig(algo=algo, env=BANDIT, log_folder=str(tmp_path), **{**small, **kwargs}))


@pytest.mark.parametrize("given", [{}, {"best_of": 3}])
def test_a_run_folder_and_a_bundle_of_best_of_n_are_still_the_best_of_n(tmp_path, given):
    result = run(tmp_path, "best_of_n", hyperparams=given)
    n = given.get("best_of", 16)
    assert result.after.completions_per_prompt == n
    for source in (result.folder, result.folder / "agent"):
        again = evaluate(source, BANDIT, n_episodes=16)
        assert again.completions_per_prompt == n
        np.testing.assert_allclose(again.reward, result.after.reward, err_msg=str(source))
        np.testing.assert_allclose(again.kl, result.after.kl, atol=1e-4)


def test_a_trusted_zip_of_best_of_n_is_still_the_best_of_n(tmp_path):
    agent = make("best_of_n", n_envs=4, best_of=3)
    (tmp_path / "config.json").write_text('{"algo": "best_of_n"}')
    agent.save(tmp_path / "agent.zip")
    assert evaluate(tmp_path / "agent.zip", BANDIT, n_episodes=4, trust=True).completions_per_prompt == 3


# Supervised fine-tuning


@pytest.mark.parametrize("micro_batch_size", [None, 16])
def test_sft_is_hugging_faces_cross_entropy_whatever_the_agent_decodes_at(micro_batch_size):
    """All references once, in one step: its loss and its gradient in every weight."""
    rows = Cycle().rows("train", None)
    decoding = dict(temperature=0.5, top_k=3)
    agent = sgd("sft", CYCLE, n_envs=1, n_steps=3 * len(rows), micro_batch_size=micro_batch_size, **decoding)
    assert agent.source == "references"
    model = copy.deepcopy(agent.policy.language_model.model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    roll_out(agent)
    assert sorted(parts(agent.rollout_buffer)) == sorted(references(rows))
    agent.train()
    loss = model(**padded(references(rows))).loss
    loss.backward()
    assert agent.logger.name_to_value["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
    after = dict(agent.policy.language_model.model.named_parameters())
    assert after.keys() == before.keys()
    for name, p in model.named_parameters():
        torch.testing.assert_close(before[name] - after[name], p.grad, atol=2e-6, rtol=1e-3, msg=name)
    assert (agent.policy.temperature, agent.policy.top_k) == (0.5, 3), "it decodes as before"


def test_sft_on_references_resumes_exactly():
    check_algorithm("sft", CYCLE, n_envs=4, source="references", n_steps=5)  # 20 tokens: no whole pass over the 72


def test_a_short_run_of_sft_lowers_the_perplexity_of_held_out_references():
    agent = make("sft", CYCLE, n_envs=8, learning_rate=3e-3)
    held_out = padded(references(Cycle().rows("test", None)))
    model = agent.policy.language_model.model
    with torch.no_grad():
        before = model(**held_out).loss.exp().item()
    agent.learn(3000)
    with torch.no_grad():
        after = model(**held_out).loss.exp().item()
    assert before > 6, "nearly uniform over 8 tokens"
    assert after < 2


def with_rows(*rows: dict[str, Any], n_envs: int = 1) -> Any:
    return agents.make_vec_env(CYCLE, n_envs, seed=0, data=list(rows))


def test_a_reference_that_is_cut_has_no_eos_and_one_that_fits_has():
    texts = ("b", "b c", "b c d", "b c d e")
    agent = make("sft", with_rows(*({"prompt": "a", "reference": text} for text in texts)), n_steps=2 + 3 + 3 + 3)
    learned = sorted(actions for _, actions in parts(roll_out(agent)))
    assert learned == sorted([[3, EOS], [3, 4, EOS], [3, 4, 5], [3, 4, 5]])


def test_where_chooses_the_references():
    rows = [{"prompt": LETTERS[i], "reference": "b", "label": i % 2, "kind": i // 3} for i in range(6)]
    agent = make("sft", with_rows(*rows), n_steps=12, where={"label": 1, "kind": 1})
    assert {tuple(prompt) for prompt, _ in parts(roll_out(agent))} == {(2 + 3,), (2 + 5,)}
    with pytest.raises(ValueError, match=r"no `reference` of the 6 rows of the data has \{'label': 2\}"):
        make("sft", with_rows(*rows), where={"label": 2})
    with pytest.raises(ValueError, match=r"where=\{'label': 1\} with source='best_of_n'"):
        make("sft", with_rows(*rows, n_envs=4), where={"label": 1}, source="best_of_n")


def test_rows_without_a_reference_are_left_out_and_all_of_them_is_an_error():
    rows = [{"prompt": "a", "reference": "b"}, {"prompt": "c", "reference": ""}, {"prompt": "d", "reference": None}]
    assert {tuple(prompt) for prompt, _ in parts(roll_out(make("sft", with_rows(*rows))))} == {(2,)}
    with pytest.raises(ValueError, match="none of the 4 rows of the data has a `reference` or a `completion`; take"):
        make("sft", source="references")
    with pytest.raises(ValueError, match=r"group_size=1 .* at least 2"):
        make("sft", source="best_of_n", group_size=1)
    with pytest.raises(TypeError, match="source='all': expected"):
        make("sft", source="all")


def test_other_data_after_loading_is_learned_from_the_start(tmp_path):
    few = [{"prompt": letter, "reference": "b"} for letter in "abc"]
    agent = make("sft", with_rows(*few), n_steps=4)
    agents.save(agent.learn(8), tmp_path / "agent")
    loaded = agents.load(tmp_path / "agent", env=with_rows({"prompt": "f", "reference": "a b"}, n_envs=2))
    loaded.learn(6, reset_num_timesteps=False)
    assert {tuple(prompt) for prompt, _ in parts(loaded.rollout_buffer)} == {(7,)}


@pytest.mark.parametrize("micro_batch_size", [None, 16])
def test_sft_on_the_best_of_n_learns_the_best_of_each_group_alone(micro_batch_size):
    """The loss and the gradient are those of the cross-entropy of the best alone, at the agent's own temperature."""
    size, temperature = 4, 0.7
    given = dict(group_size=size, temperature=temperature, micro_batch_size=micro_batch_size)
    agent = sgd("sft", BANDIT, n_envs=8, n_steps=6, **given)
    assert agent.source == "best_of_n"
    model = copy.deepcopy(agent.policy.language_model.model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sequences = parts(roll_out(agent))
    agent.train()
    best = []
    for start in range(0, len(sequences), size):
        group = sequences[start : start + size]
        prompts = {tuple(prompt) for prompt, _ in group}
        assert len(prompts) == 1
        best.append(group[completion_rewards(LETTERS[prompts.pop()[0] - 2], [taken for _, taken in group]).argmax()])
    batch = padded(best)
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1] / temperature
    loss = functional.cross_entropy(logits.transpose(1, 2), batch["labels"][:, 1:])
    loss.backward()
    assert agent.logger.name_to_value["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
    after = dict(agent.policy.language_model.model.named_parameters())
    for name, p in model.named_parameters():
        torch.testing.assert_close(before[name] - after[name], p.grad, atol=2e-6, rtol=1e-3, msg=name)


# Random


def test_the_kl_of_random_tokens_is_the_closed_form():
    agent = make("random", n_envs=4, model=peaked_model())
    completions = enumerate_completions()
    uniform = np.array([-len(ids) * math.log(8) for ids in completions])
    model = agent.policy.language_model.model
    exactly = np.mean([np.exp(uniform) @ (uniform - log_probs(model, 2 + k)) for k in range(4)])
    result = evaluate(agent, BANDIT, n_episodes=2000)
    within = result.kl.std(ddof=1) / math.sqrt(2000)
    assert within < exactly / 20, "the check is a sharp one"
    assert abs(result.kl.mean() - exactly) < 4 * within


def test_a_run_folder_and_a_bundle_of_random_are_still_uniform(tmp_path):
    result = run(tmp_path, "random", hyperparams={})
    for source in (result.folder, result.folder / "agent"):
        again = evaluate(source, BANDIT, n_episodes=16)
        for one, then in zip(again.completions, result.after.completions, strict=True):
            assert one.completion == then.completion
            np.testing.assert_allclose(one.log_probs, -math.log(8), rtol=1e-6, err_msg=str(source))
        np.testing.assert_allclose(again.kl, result.after.kl, atol=1e-5)
        assert np.abs(again.kl).max() > 1e-4, "the reference is the model, not the uniform policy"
