"""Check that agents learn on a device: a bandit with a known optimum, and Sentiment for a judge not trained against."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback

import agents
from agents.training.hyperparams import default_hyperparams

from ..closed_form import train
from .parts import Outcome, Part, Setting, SkippedPart

__all__ = ["PARTS"]

SENTIMENT = "rlhf/Sentiment-v0"
MIN_WAY, MIN_GAIN, MIN_SEMS, MAX_KL = 0.5, 0.1, 3, 10.0
BANDIT_SECONDS, SENTIMENT_SECONDS = 60, 110


class Deadline(BaseCallback):
    """Stop a run after some seconds, and raise `SkippedPart`: half a run is not judged."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.end = time.perf_counter() + seconds

    def _on_step(self) -> bool:
        if time.perf_counter() > self.end:
            raise SkippedPart(f"time was up after {self.num_timesteps:,} tokens")
        return True


def learn_bandit(setting: Setting) -> Outcome:
    """Train PPO on `rlhf/TokenBandit-v0`, and count the way to the optimum of `E[r] - b KL`, by enumeration."""
    tokens, sizes = (192, {"n_envs": 8}) if setting.small else (60_000, {})
    threads = torch.get_num_threads()
    try:
        found = train(
            "ppo", 0, device=setting.device, tokens=tokens, callback=partial(Deadline, BANDIT_SECONDS), **sizes
        )
    finally:
        torch.set_num_threads(threads)  # `train` takes one
    figures = {name: found[name] for name in ("way", "reward", "kl")} | {"tokens": tokens}
    if setting.small:
        return Outcome(figures, all(map(math.isfinite, figures.values())), "finite")
    return Outcome(figures, found["way"] > MIN_WAY, f"way above {MIN_WAY}")


def learn_sentiment(setting: Setting) -> Outcome:
    """Train PPO on `rlhf/Sentiment-v0` as `rlhf train` does, and let "gold" judge held-out prompts before and after."""
    settings: dict[str, Any] = default_hyperparams(SENTIMENT, "ppo")
    tokens, n_envs, n_prompts = settings.pop("n_timesteps"), settings.pop("n_envs"), 256
    options: dict[str, Any] = {}
    if setting.small:
        settings |= dict(batch_size=8, n_epochs=1)
        tokens, n_envs, n_prompts, options = 8, 2, 2, {"max_new_tokens": 4}
    deadline = Deadline(SENTIMENT_SECONDS)
    env = agents.make_vec_env(SENTIMENT, n_envs, seed=0, **options)
    agent = agents.make("ppo", env, seed=0, device=setting.device, **settings)
    before = agents.evaluate(agent, SENTIMENT, n_prompts, env_kwargs=options)
    agent.learn(tokens, callback=deadline)
    after = agents.evaluate(agent, SENTIMENT, n_prompts, env_kwargs=options)
    gain, kl = after.change_from(before)["gold"], after.estimates()["kl"].mean
    figures = {"gold gain": gain.mean, "its sem": gain.sem, "KL": kl, "reward": float(after.reward.mean())}
    if setting.small:
        return Outcome(figures, math.isfinite(gain.mean + kl), "finite")
    passed = gain.mean > max(MIN_GAIN, MIN_SEMS * gain.sem) and kl < MAX_KL
    return Outcome(figures, passed, f"gain above {MIN_GAIN} and {MIN_SEMS} sem, KL below {MAX_KL:g}")


PARTS = [
    Part("PPO learns TokenBandit", BANDIT_SECONDS, learn_bandit),
    Part("PPO learns Sentiment", SENTIMENT_SECONDS, learn_sentiment),
]
