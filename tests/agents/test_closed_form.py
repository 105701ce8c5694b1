"""Algorithms against the closed form: pi*(y|x) ~ pi_ref(y|x) exp(r(x, y) / b) on a space small enough to enumerate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import agents
from rlhf_envs.tasks.token_bandit import CONTEXTS, completion_rewards, enumerate_completions, optimum

KL_COEF = 0.3
SETTINGS = {
    "ppo": dict(learning_rate=lambda left: 2e-3 * left, n_steps=24, batch_size=768, n_epochs=8, vf_coef=0.5),
    "a2c": dict(learning_rate=lambda left: 4e-3 * left, n_steps=3, vf_coef=0.5, normalize_advantage=False),
    "reinforce": dict(learning_rate=lambda left: 4e-3 * left, n_steps=3, normalize_advantage=False),
    "rloo": dict(learning_rate=lambda left: 2e-3 * left, n_steps=6, batch_size=192, n_epochs=4, group_size=8),
    "grpo": dict(learning_rate=lambda left: 2e-3 * left, n_steps=6, batch_size=192, n_epochs=4, group_size=8),
    "online_dpo": dict(learning_rate=lambda left: 2e-3 * left, n_steps=6, batch_size=192, n_epochs=4, beta=KL_COEF),
}
SETTINGS["grpo"] |= dict(kl="reward", scale_rewards=False)  # its KL in the loss, and its scale, have another optimum
# Tokens, and the part of the way to the optimum that they cover.
SHORT = {"ppo": (60_000, 0.5), "a2c": (100_000, 0.3), "grpo": (60_000, 0.5)}
SHORT_BUT_SLOW = {"rloo": (60_000, 0.5), "reinforce": (60_000, 0.3), "online_dpo": (60_000, 0.3)}
LONG = {"ppo": 200_000, "a2c": 400_000}


def exact_figures(policy, env) -> dict[str, float]:
    """Expected reward, KL and objective of a policy over all completions of all prompts, and those of the optimum."""
    tokenizer = env.get_attr("tokenizer", 0)[0]
    completions = enumerate_completions()
    figures = []
    for prompt in CONTEXTS:
        start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        length = len(start) + max(map(len, completions))
        ids = torch.zeros(len(completions), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        rows, columns, actions = [], [], []
        for i, completion in enumerate(completions):
            sequence = torch.tensor([*start, *completion])
            ids[i, : len(sequence)], mask[i, : len(sequence)] = sequence, 1
            rows += [i] * len(completion)
            columns += range(len(start) - 1, len(sequence) - 1)
            actions += completion
        obs = {"input_ids": ids, "attention_mask": mask, "rows": torch.tensor(rows), "columns": torch.tensor(columns)}
        with torch.no_grad():
            token_log_probs = policy.evaluate_actions(obs, torch.tensor(actions))[1]
            reference_log_probs = policy.reference_log_prob(obs, torch.tensor(actions))
        log_pi, log_ref = (
            np.bincount(rows, weights=values.double().numpy(), minlength=len(completions))
            for values in (token_log_probs, reference_log_probs)
        )
        rewards = completion_rewards(prompt, completions)
        pi = np.exp(log_pi)
        assert pi.sum() == pytest.approx(1, abs=1e-4)
        best = optimum(log_ref, rewards, KL_COEF)
        kl = pi @ (log_pi - log_ref)
        start_objective = np.exp(log_ref) @ rewards
        figures.append((start_objective, pi @ rewards, kl, pi @ rewards - KL_COEF * kl))
        figures[-1] += (best["expected_reward"], best["kl"], best["objective"])
    names = ("start", "reward", "kl", "objective", "best_reward", "best_kl", "best_objective")
    return dict(zip(names, np.mean(figures, axis=0).tolist(), strict=True))


def learn(algo: str, tokens: int, seed: int) -> dict[str, float]:
    env = agents.make_vec_env("rlhf/TokenBandit-v0", 64, seed=seed)
    agent = agents.make(algo, env, seed=seed, device="cpu", kl_coef=KL_COEF, **SETTINGS[algo])
    agent.learn(tokens)
    return exact_figures(agent.policy, env)


@pytest.mark.parametrize("algo", [*SHORT, *(pytest.param(algo, marks=pytest.mark.slow) for algo in SHORT_BUT_SLOW)])
def test_a_short_run_is_on_its_way_to_the_optimum(algo):
    tokens, part = (SHORT | SHORT_BUT_SLOW)[algo]
    figures = learn(algo, tokens, seed=0)
    assert figures["objective"] - figures["start"] > part * (figures["best_objective"] - figures["start"]), figures


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_the_optimum_is_reached(algo):
    """Over 5 seeds the objective covers 90% of the way from the start to the optimum; reward and KL are within 15%."""
    runs = [learn(algo, LONG[algo], seed) for seed in range(5)]
    mean = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
    print(algo, {name: round(value, 4) for name, value in mean.items()})
    assert mean["objective"] - mean["start"] > 0.9 * (mean["best_objective"] - mean["start"]), mean
    assert mean["reward"] == pytest.approx(mean["best_reward"], rel=0.15), mean
    assert mean["kl"] == pytest.approx(mean["best_kl"], rel=0.15), mean
