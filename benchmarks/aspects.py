"""Measure whether weights and limits of two learned aspects move each as asked, on texts of letters or on reviews.

`python -m benchmarks.aspects --seeds 3`: simulated people rate texts by two questions of a project's own, how
favourable each is, and how brief. One in five answers without a look. A reward model of each is fitted as `rlhf reward
fit --aspects` does, and PPO raises their weighted sum: with one weight after the other, and with the first one's weight
and a lower limit of the second. Printed are what no agent trained against, of completions afterwards: how favourable
they are, and how many words they have.

- `--task letters`: `rlhf/TokenBandit-v0`; favourable are "a" and "b", unfavourable "e" and "f", and people go by their
  number in the text, as the figures do.
- `--task reviews`: `rlhf/Sentiment-v0`, whose texts "tiny" wrote; people go by "gold-bow", the figures by "gold".
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

import agents
from rlhf_envs.datasets.messages import said
from rlhf_envs.feedback import FeedbackStore, NewItem, Question
from rlhf_envs.feedback.formats.stored_rows import is_store
from rlhf_envs.feedback.simulated import annotate, simulated_crowd
from rlhf_envs.preferences.aspects.fitting import AspectReport, fit_aspects
from rlhf_envs.preferences.aspects.rows import judged_aspects
from rlhf_envs.rewards import get_reward
from rlhf_envs.rewards.aspects import read_aspects
from rlhf_envs.tasks.token_bandit import CONTEXTS, LETTERS
from rlhf_envs.words import split_words

__all__ = ["TASKS", "Task", "fit", "main", "train"]

QUESTIONS = (Question("favourable", "How favourable is it?", "rating"), Question("brief", "How brief is it?", "rating"))
AT_LEAST = 0.5  # of "brief", in standard deviations of the texts that were judged
MIXTURES: dict[str, dict[str, dict[str, float]]] = {
    "favourable 1": {"favourable": {"weight": 1}, "brief": {"weight": 0}},
    "favourable 1, brief 0.5": {"favourable": {"weight": 1}, "brief": {"weight": 0.5}},
    "favourable 0.5, brief 1": {"favourable": {"weight": 0.5}, "brief": {"weight": 1}},
    f"favourable 1, brief at least {AT_LEAST:g}": {"favourable": {"weight": 1}, "brief": {"at_least": AT_LEAST}},
}
STEP = 0.3  # of the limit's price
Score = Callable[..., Any]


@dataclass(frozen=True)
class Task:
    """Hold what is trained: the environment, what people go by, what the figures go by, and the agent's settings."""

    env: str
    texts: Callable[[int, int], tuple[list[str], list[str]]]  # (n, seed) -> prompts and completions to judge
    people: Callable[[], Score]  # makes what says how favourable a text is
    judge: Callable[[], Score]
    epochs: int  # of the fits
    settings: Mapping[str, Any]


def favour(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """Return how many letters of texts are "a" or "b", less how many are "e" or "f"."""
    words = [split_words(said(text)) for text in completions]
    return [float(sum((word in "ab") - (word in "ef") for word in text)) for text in words]


def brevity(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """Return minus the words of texts."""
    return [-float(len(split_words(said(text)))) for text in completions]


def draw_letters(n: int, seed: int) -> tuple[list[str], list[str]]:
    """Return prompts and texts of up to three letters."""
    draw = np.random.default_rng(seed)
    texts = [" ".join(draw.choice(list(LETTERS), draw.integers(1, 4))) for _ in range(n)]
    return [str(draw.choice(list(CONTEXTS))) for _ in texts], texts


def write_reviews(n: int, seed: int) -> tuple[list[str], list[str]]:
    """Return prompts of the training split, and how "tiny" goes on."""
    done = agents.generate("tiny", "rlhf/Sentiment-v0", n, split="train", seed=seed, temperature=0.7)
    return [str(one.prompt) for one in done], [one.completion for one in done]


TASKS = {
    "letters": Task(
        "rlhf/TokenBandit-v0",
        draw_letters,
        lambda: favour,
        lambda: favour,
        6,
        {"n_steps": 6, "batch_size": 192, "n_epochs": 4, "learning_rate": 2e-3, "kl_coef": 0.1, "vf_coef": 0.5},
    ),
    "reviews": Task(
        "rlhf/Sentiment-v0",
        write_reviews,
        lambda: get_reward("gold-bow"),
        lambda: get_reward("gold"),
        2,
        {"batch_size": 512, "n_epochs": 1, "learning_rate": 5e-4, "kl_coef": 0.1, "temperature": 0.7},
    ),
}


class Record(BaseCallback):
    """Keep the mean of the limited aspect of every rollout, and its price, as `LagrangeMultiplier` logs them."""

    def __init__(self) -> None:
        super().__init__()
        self.figures: list[tuple[float, float]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        found = self.logger.name_to_value
        self.figures.append((found["rlhf/cost"], found["rlhf/lagrange_multiplier"]))

    def last_third(self) -> dict[str, float]:
        """Return the means over the last third of the rollouts."""
        mean, price = np.mean(self.figures[-(len(self.figures) // 3) :], axis=0)
        return {"brief, last third": float(mean), "price": float(price)}


def fit(task: Task, folder: Path, n_texts: int, seed: int) -> AspectReport:
    """Ask simulated people about texts, and write a reward model per question into a folder."""
    prompts, texts = task.texts(n_texts, seed)
    scorers: dict[str, Any] = {"favourable": task.people(), "brief": brevity}
    references = {name: [float(score) for score in scorer(prompts, texts)] for name, scorer in scorers.items()}
    options: dict[str, Any] = {"temperature": 0.1, "scorers": scorers, "references": references}
    with FeedbackStore(folder / "feedback.db", seed=seed) as store:
        store.update_settings(questions=QUESTIONS)
        items = [NewItem("questions", prompt, (text,), overlap=2) for prompt, text in zip(prompts, texts, strict=True)]
        store.add_items(items)
        annotate(store, simulated_crowd(scorers["favourable"], 5, 0.2, seed=seed, **options))
    given = read_aspects({question.name: {} for question in QUESTIONS}, to_fit=True)
    judged = judged_aspects(str(folder / "feedback.db"), given, is_store)
    return fit_aspects(judged, folder / "models", epochs=task.epochs, seed=seed)


def train(
    task: Task, models: Path, mixture: Mapping[str, Mapping[str, float]], tokens: int, seed: int
) -> dict[str, float]:
    """Train by a mixture of the aspects in a folder, and return what is printed; of the start without tokens."""
    aspects = {name: {**given, "reward": str(models / name)} for name, given in mixture.items()}
    kwargs: dict[str, Any] = {"reward": "aspects", "reward_kwargs": {"aspects": aspects}}
    env = agents.make_vec_env(task.env, 64, seed=seed, **kwargs)
    agent = agents.make("ppo", env, seed=seed, device="cpu", **task.settings)
    record = Record()
    limited = any("at_least" in given for given in mixture.values())
    if tokens:
        agent.learn(tokens, callback=[agents.LagrangeMultiplier(step=STEP), record] if limited else None)
    found = agents.evaluate(agent, task.env, 256, seed=seed, judges={"judge": task.judge()}, env_kwargs=kwargs)
    words = -np.mean(brevity([], [one.completion for one in found.completions]))
    scores = {f"learned {name}": values.mean() for name, values in found.components.items()}
    figures = {"favourable": found.judges["judge"].mean(), "words": words, **scores}
    plain = {name: float(value) for name, value in figures.items()}
    return plain | (record.last_third() if limited and tokens else {})


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=[*TASKS], default="letters")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=15_360)
    args = parser.parse_args(arguments)
    task = TASKS[args.task]
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        with tempfile.TemporaryDirectory() as place:
            began = time.process_time()
            report = fit(task, Path(place), args.texts, seed)
            held_out = {name: round(float(m["held-out correlation"]), 3) for name, m in report.metrics.items()}
            weights = {name: round(min(own.values()), 2) for name, own in report.weights.items()}
            took = f"{time.process_time() - began:.0f} s of CPU"
            print(f"seed {seed}: held-out correlations {held_out}, lowest weights {weights}; {took}", flush=True)
            print(f"seed {seed}: {report.correlations[0]}", flush=True)
            for name, mixture in {"start": MIXTURES["favourable 1"], **MIXTURES}.items():
                began = time.process_time()
                found = train(task, Path(place) / "models", mixture, 0 if name == "start" else args.tokens, seed)
                text = ", ".join(f"{key} {value:.3f}" for key, value in found.items())
                print(f"seed {seed}, {name}: {text}; {time.process_time() - began:.0f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
