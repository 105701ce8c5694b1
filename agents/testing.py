"""Check an algorithm of your own; every algorithm here passes. `rlhf_envs.testing` checks environments."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from rlhf_envs.action_masks import ActionMasks
from rlhf_envs.tasks.token_bandit import CONTEXTS, completion_rewards, enumerate_completions, optimum

from .core.random_state import get_generators, set_generators
from .core.vec_env import make_vec_env
from .evaluation.evaluate import evaluate
from .registry import make
from .saving import bundle as bundles
from .saving.loading import load

__all__ = ["bandit_figures", "check_algorithm"]


def check_algorithm(
    name: str,
    env_id: str = "rlhf/TokenBandit-v0",
    n_envs: int = 8,
    learns: bool = True,
    device: str = "cpu",
    **kwargs: Any,
) -> list[str]:
    """Check that a registered algorithm does what users of Stable-Baselines3 and of this package rely on.

    It trains for a few rollouts, several times, and checks that:

    - the same seed gives the same agent, and another seed another one (unless the algorithm learns nothing);
    - a second `learn` counts on;
    - a vectorised and a plain environment are accepted;
    - `predict` gives token ids, and an evaluation gives finite rewards;
    - a saved and loaded agent acts as before, and learns on exactly as if it had never stopped.

    Args:
        name: a registered algorithm.
        env_id: a small text environment. `rlhf/DialogBandit-v0` has turns and their rewards.
        n_envs: number of environments.
        learns: whether its parameters change within four episodes per environment. False for baselines only.
        device: where it trains.
        **kwargs: arguments of `agents.make`.

    Returns:
        What was checked, one sentence per check.

    Raises:
        AssertionError: a check failed; the message says which.
    """
    checks = _Checks(name)
    env = gym.spec(env_id).make()
    horizon = int(env.get_wrapper_attr("max_new_tokens"))
    tokens = 4 * horizon * n_envs

    def train(seed: int) -> Any:
        agent = make(name, make_vec_env(env_id, n_envs, seed=seed), seed=seed, device=device, **kwargs)
        return agent.learn(tokens)

    agent, again, other = train(0), train(0), train(1)
    trained = agent.num_timesteps
    checks.add("trains for all tokens", trained >= tokens, f"learn({tokens}) trained for {trained} tokens")
    checks.add(
        "the same seed gives the same agent", _same(agent, again), "two runs with one seed end with other weights"
    )
    untrained = make(name, make_vec_env(env_id, n_envs, seed=0), seed=0, device=device, **kwargs)
    checks.add(
        "changes the weights" if learns else "leaves the weights alone",
        _same(agent, untrained, parameters_only=True) is not learns,
        f"{tokens} tokens {'leave the weights as they were' if learns else 'change the weights'}; take "
        "arguments with which it learns sooner",
    )
    if learns:
        checks.add("another seed gives another agent", not _same(agent, other), "two seeds end with the same weights")
    _check_acting(checks, agent, env_id)
    _check_resume(checks, agent, tokens)
    before = agent.num_timesteps
    agent.learn(tokens, reset_num_timesteps=False)
    counts_on = agent.num_timesteps >= before + tokens
    checks.add("a second learn counts on", counts_on, "a second learn does not count on")
    for_one = {key: value for key, value in kwargs.items() if key not in ("n_steps", "batch_size")}
    plain = make(name, env, seed=0, device=device, **for_one).learn(tokens // 2)
    accepted = plain.num_timesteps >= tokens // 2
    checks.add("a plain environment is accepted", accepted, "a plain environment is not trained in")
    return checks.passed


@dataclass
class _Checks:
    """Hold the checks that an algorithm has passed."""

    algorithm: str
    passed: list[str] = field(default_factory=list)

    def add(self, what: str, holds: bool, failure: str) -> None:
        """Note a check. Raise AssertionError if it does not hold."""
        assert holds, f"{self.algorithm}: {failure}"
        self.passed.append(what)


def bandit_figures(agent: Any, kl_coef: float) -> dict[str, float]:
    """Compute what an agent of `rlhf/TokenBandit-v0` is worth, by enumeration of all completions, without noise.

    The masks of the policy's tokens (action masks, the nucleus of NLPO as it is now) also mask the reference and the
    optimum.

    Args:
        agent: an agent whose policy is a `TokenPolicy`.
        kl_coef: the weight b of the KL to the reference in the objective `E[r] - b KL`, above 0.

    Returns:
        Means over the prompts: `reward`, `kl` (nats per episode) and `objective` of the policy; `start`, the objective
        of the reference; `best_reward`, `best_kl` and `best_objective` of the optimum `pi_ref exp(r / b) / Z` (Ziegler
        et al. 2019, https://arxiv.org/abs/1909.08593).
    """
    policy, episodes = agent.policy, agent.get_env().get_attr("episodes", 0)[0]
    policy.set_training_mode(False)
    tokenizer, masks = episodes.tokenizer, None
    if policy.reads_action_masks:
        masks = ActionMasks(episodes.task, tokenizer, episodes.max_new_tokens, **episodes.mask_options)
    completions = enumerate_completions()
    prefixes = sorted({completion[:k] for completion in completions for k in range(len(completion))})
    rows = []
    for prompt in CONTEXTS:
        start = tuple(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        log_pi, log_ref = (
            np.array([sum(table[prefixes.index(y[:k])][y[k]] for k in range(len(y))) for y in completions])
            for table in _next_tokens(policy, start, prefixes, masks)
        )
        pi, rewards = np.exp(log_pi), completion_rewards(prompt, completions)
        assert abs(pi.sum() - 1) < 1e-4, f"the policy's probabilities of all completions sum to {pi.sum():.6g}"
        possible = pi > 0
        reward, kl = pi @ rewards, pi[possible] @ (log_pi[possible] - log_ref[possible])
        best = optimum(log_ref, rewards, kl_coef)
        rows.append([reward, kl, reward - kl_coef * kl, np.exp(log_ref) @ rewards])
        rows[-1] += [best["expected_reward"], best["kl"], best["objective"]]
    names = ("reward", "kl", "objective", "start", "best_reward", "best_kl", "best_objective")
    return dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))


@torch.no_grad()
def _next_tokens(
    policy: Any, start: tuple[int, ...], prefixes: list[tuple[int, ...]], masks: ActionMasks | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities `(prefixes, tokens)` of the next token, under the policy and under its reference."""
    steps = torch.tensor([len(prefix) for prefix in prefixes])
    lengths = steps + len(start)
    ids = torch.zeros(len(prefixes), int(lengths.max()), dtype=torch.long)
    for row, prefix in enumerate(prefixes):
        ids[row, : lengths[row]] = torch.tensor(start + prefix)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    obs = {"input_ids": ids, "attention_mask": mask}
    if masks is not None:
        allowed = masks(ids.numpy(), lengths.numpy(), (lengths - steps).numpy(), steps.numpy())
        obs["action_masks"] = torch.as_tensor(allowed)
    obs = {key: tensor.to(policy.device) for key, tensor in obs.items()}
    log_pi = policy.get_distribution(obs).distribution.logits
    places = torch.arange(len(ids), device=policy.device), (lengths - 1).to(policy.device)
    base = policy.reference_logits(obs["input_ids"], obs["attention_mask"], *places)
    log_ref = policy.reference_decoding_logits(base, None, *policy.masks(obs)).log_softmax(dim=-1)
    return log_pi.double().cpu().numpy(), log_ref.double().cpu().numpy()


def _check_acting(checks: _Checks, agent: Any, env_id: str) -> None:
    obs = agent.get_env().reset()
    actions, again = (agent.predict(obs, deterministic=True)[0] for _ in range(2))
    token = int(actions[0])
    checks.add("deterministic actions repeat themselves", np.array_equal(actions, again), "deterministic is not")
    is_token = agent.action_space.contains(token)
    checks.add("predict gives token ids", is_token, f"predict gives {token}, which is no token id")
    rewards = evaluate(agent, env_id, n_episodes=4).reward
    finite = bool(np.isfinite(rewards).all())
    checks.add("an evaluation gives finite rewards", finite, f"an evaluation gives rewards {rewards}")


def _check_resume(checks: _Checks, agent: Any, tokens: int) -> None:
    """Check that a loaded agent learns on as the saved one does."""
    agent.learn(tokens)  # `predict` has reset the environments
    with tempfile.TemporaryDirectory() as folder:
        bundles.save(agent, Path(folder) / "agent")
        loaded = load(Path(folder) / "agent", algorithm=checks.algorithm)
        generators = get_generators()
        equal = _same(agent, loaded)
        checks.add("a loaded agent is the saved one", equal, "what was loaded has other weights than what was saved")
        loaded.learn(tokens, reset_num_timesteps=False)
        set_generators(generators)
        agent.learn(tokens, reset_num_timesteps=False)
        counts = loaded.num_timesteps == agent.num_timesteps
        checks.add("a loaded agent counts on", counts, "a loaded agent counts its tokens differently")
        wrong = "a loaded agent learns on differently from one that never stopped"
        checks.add("a loaded agent learns on exactly", _same(agent, loaded), wrong)


def _same(one: Any, other: Any, parameters_only: bool = False) -> bool:
    """Return whether two agents have equal parameters and buffers."""
    first, second = (
        dict(agent.policy.named_parameters()) if parameters_only else agent.policy.state_dict()
        for agent in (one, other)
    )
    assert first.keys() == second.keys()
    return all(torch.equal(torch.nan_to_num(first[key]), torch.nan_to_num(second[key])) for key in first)
