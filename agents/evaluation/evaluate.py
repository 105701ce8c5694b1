"""Measure completions of held-out prompts: rewards, judges, the task's metrics, KL, perplexity, length, diversity."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from rlhf_envs.dialogs import ENDED
from rlhf_envs.episodes import EpisodeBatch
from rlhf_envs.rendering import html_table
from rlhf_envs.rewards import evaluate_reward, get_reward
from rlhf_envs.rewards.state import frozen_rewards
from rlhf_envs.tasks import Task
from rlhf_envs.words import split_words

from ..core.text_metrics import check_metric_names, distinct_bigrams
from .corpus import corpus_estimate, corpus_metrics
from .generate import Completion, generate, generate_in, held_out_indices
from .prompt_counts import count_different, count_prompts, count_trained, describe_prompts
from .reference import find_reference, is_reference, measure_against
from .source import Source
from .statistics import Estimate, bootstrap_mean, bootstrap_perplexity, check_episodes, jackknife_distinct_bigrams

__all__ = ["Completion", "Evaluation", "evaluate", "find_judges", "generate", "judge_completions"]

Judges = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Hold the metrics of n episodes, one value per episode in every array, and the completions.

    Attributes:
        reference: the model that `kl` and `nll` are measured against; None if there is none.
        reward: (n,) the environment's reward.
        components: (n,) each, the parts of the reward; NaN where a part does not apply.
        judges: (n,) each, scores that the agent did not train against.
        judge_parts: (n,) each, the components of judges that have several, such as "gold_meaning" and "gold_language".
        metrics: (n,) each, the task's own metrics. Of a mixture also rewards, judges and metrics by task, such as
            "sentiment/reward", NaN for episodes of other tasks.
        corpus: the task's metrics of all episodes together, such as macro-F1: (1 + 200,) values each, of all
            episodes and then of bootstrap samples of them.
        trained: how many of the n prompts the source was trained on, or are of the training split.
        kl: (n,) log pi(y|x) - log pi_ref(y|x) in nats: the k1 estimate of the KL per episode. For the best of n
            completions it is the value of the chosen one plus `log n - (n - 1) / n`, an upper bound of what choosing
            adds (Beirami et al. 2024, https://arxiv.org/abs/2401.01879).
        nll: (n,) -log p_ref(y|x) in nats, at temperature 1 and without top-k or top-p.
        length: (n,) the number of tokens that the agent chose.
        eos: (n,) bool, whether the episode ended by EOS.
        distinct: (n,) the share of distinct word bigrams within the completion; 1 if it has no bigram.
        seconds: the wall time of the evaluation.
        completions_per_prompt: the completions drawn per prompt: n for the best of n, whose decoding costs n times as
            much as `length` says; else 1.
    """

    source: str
    env_id: str
    split: str
    seed: int
    reference: str | None
    reward: np.ndarray
    components: dict[str, np.ndarray]
    judges: dict[str, np.ndarray]
    kl: np.ndarray | None
    nll: np.ndarray | None
    length: np.ndarray
    eos: np.ndarray
    distinct: np.ndarray
    completions: list[Completion] = field(repr=False)
    seconds: float = 0.0
    completions_per_prompt: int = 1
    judge_parts: dict[str, np.ndarray] = field(default_factory=dict)
    metrics: dict[str, np.ndarray] = field(default_factory=dict)
    trained: int = 0
    corpus: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def prompts(self) -> str:
        """Return what tables call the prompts: held-out prompts only if none of them is a training prompt."""
        return describe_prompts(self.trained, len(self.reward))

    @property
    def different_prompts(self) -> int:
        """Return the number of different prompts."""
        return count_different(done.row for done in self.completions)

    @property
    def counted(self) -> str:
        """Return what was completed: "256 held-out prompts", or "256 completions of 2 held-out prompts"."""
        return count_prompts(len(self.reward), self.different_prompts, self.prompts)

    def samples(self, n: int) -> list[Completion]:
        """Return the first n completions, of each prompt one at most."""
        return self.completions[: min(n, self.different_prompts)]

    def __repr__(self) -> str:
        """Return what was evaluated, and the means of the reward, the judges and the KL."""
        shown = {"reward": self.reward, **self.judges, **({} if self.kl is None else {"kl": self.kl})}
        means = ", ".join(f"{name} {round(np.nanmean(values), 3) + 0.0:.3f}" for name, values in shown.items())
        return f"Evaluation({self.source} on {self.env_id}, {self.counted}: {means})"

    def _repr_html_(self) -> str:
        """Return every metric, and some completions, as notebooks show them."""
        estimates = self.estimates()
        rows = [(name, str(e), f"{e.low:.3f} to {e.high:.3f}") for name, e in estimates.items()]
        samples = [(f"{c.reward:+.2f}", c.prompt, c.completion) for c in self.samples(4)]
        table = html_table(("", "mean ± standard error", "95% interval"), rows, repr(self))
        return table + html_table(("reward", "prompt", "completion"), samples)

    def values(self) -> dict[str, np.ndarray]:
        """Return the metrics that are means of one value per episode, (n,) each, by name; NaN where one has none."""
        parts = self.components if len(self.components) > 1 else {}
        rewards = {"reward": self.reward, **{f"reward_{name}": scores for name, scores in parts.items()}}
        judged = self.judges | self.judge_parts | self.metrics
        texts = {"length": self.length, "eos_share": self.eos.astype(float), "distinct_within": self.distinct}
        return rewards | judged | ({} if self.kl is None else {"kl": self.kl}) | texts

    def estimates(self) -> dict[str, Estimate]:
        """Return every metric with its standard error and 95% interval.

        These are the means of `values()`, the task's metrics of all episodes together, and two more: `perplexity` under
        the reference, the exponential of all nats divided by all tokens, and `distinct_bigrams` over all completions
        together. The intervals are bootstrapped, except for `distinct_bigrams`, which has a jackknife interval.
        """
        return dict(self._estimates)

    @cached_property
    def _estimates(self) -> dict[str, Estimate]:
        """Hold the estimates: a run writes them in several places."""
        estimates = {name: self._mean(values) for name, values in self.values().items() if not np.isnan(values).all()}
        estimates |= self._together(self.corpus)
        if self.nll is not None:
            estimates["perplexity"] = bootstrap_perplexity(self.nll, self.length, self.seed)
        estimates["distinct_bigrams"] = jackknife_distinct_bigrams([c.completion for c in self.completions])
        return estimates

    def component_estimates(self) -> dict[str, Estimate]:
        """Return the parts of the reward, each with its standard error and 95% interval, also where there is one."""
        return {name: self._mean(values) for name, values in self.components.items() if not np.isnan(values).all()}

    def change_from(self, before: Evaluation) -> dict[str, Estimate]:
        """Return the mean differences from an evaluation, paired by prompt. Raise ValueError if the prompts differ."""
        if [c.index for c in self.completions] != [c.index for c in before.completions]:
            raise ValueError("the two evaluations have different prompts: take the same split and n_episodes")
        first, now = before.values(), self.values()
        changes = {name: now[name] - first[name] for name in now if name in first}
        together = {name: now - before.corpus[name] for name, now in self.corpus.items() if name in before.corpus}
        means = {name: self._mean(change) for name, change in changes.items() if not np.isnan(change).all()}
        return means | (self._together(together) if self.seed == before.seed else {})

    def _together(self, metrics: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
        """Return the estimates of metrics of all episodes together, without those that could not be computed."""
        return {k: corpus_estimate(values, len(self.reward)) for k, values in metrics.items() if np.isfinite(values[0])}

    def _mean(self, values: np.ndarray) -> Estimate:
        """Return the mean of the values that are there."""
        return bootstrap_mean(values[~np.isnan(values)], self.seed)

    def to_dict(self, n_samples: int = 8) -> dict[str, Any]:
        """Return the entry of a JSON report, with the first `n_samples` completions, see `samples`."""
        return {
            "source": self.source,
            "env": self.env_id,
            "split": self.split,
            "episodes": len(self.reward),
            "prompts": self.prompts,
            "different_prompts": self.different_prompts,
            "seed": self.seed,
            "reference": self.reference,
            "completions_per_prompt": self.completions_per_prompt,
            "seconds": round(self.seconds, 3),
            "estimates": {name: estimate.to_dict() for name, estimate in self.estimates().items()},
            "samples": [sample.to_dict() for sample in self.samples(n_samples)],
        }


def evaluate(
    source: Any,
    env_id: Any = "rlhf/Sentiment-v0",
    n_episodes: int = 256,
    split: str = "test",
    judges: Sequence[str] | Judges | None = None,
    reference: Any = None,
    seed: int = 0,
    deterministic: bool = False,
    env_kwargs: Mapping[str, Any] | None = None,
    trust: bool = False,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    max_new_tokens: int | None = None,
) -> Evaluation:
    """Let a policy complete held-out prompts, and measure the completions.

    What is called held-out is checked: `Evaluation.prompts` says so where prompts are training prompts.

    The prompts are always the same, and each episode has its own random numbers. Two evaluations therefore pair up
    episode by episode (`Evaluation.change_from`).

    Args:
        source: an agent, a policy of this package, a Hugging Face model, a run folder, or a model's name or folder.
        env_id: an environment's id; or a text environment, which lends its task, data and reward, whatever `split` and
            `max_new_tokens` are.
        n_episodes: the number of prompts; beyond the rows of the split they come again.
        judges: names of registered rewards, or reward functions by name, that score the completions too; by default
            the task's own ("gold" for sentiment).
        reference: the model that KL and perplexity are measured against: a model or its name. By default the one that
            the policy or the run started from. For a plain model it is the task's default model if that has the same
            vocabulary, else the model itself.
        seed: the seed of the sampling and the bootstrap.
        deterministic: take the most probable token. Then `kl` is a log-ratio and no estimate of the KL, and best-of-n
            draws one completion per prompt.
        env_kwargs: further arguments of the environment.
        trust: load an SB3 zip, which holds pickles.
        temperature, top_k, top_p: how tokens are drawn; by default as the agent or the run does it, else 1 and no
            limits.
        max_new_tokens: the room for the completion; by default the run's or the task's.

    Raises:
        ValueError: unknown environment, split, judge or model.
    """
    started = time.perf_counter()
    check_episodes(n_episodes)
    source = Source.of(source, trust).with_decoding({"temperature": temperature, "top_k": top_k, "top_p": top_p})
    limit = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    batch = source.open_episodes(env_id, split, {**(env_kwargs or {}), **limit})
    scorers = find_judges(batch.task, judges)
    trained_on = source.training_prompts(batch)
    completions, reference_name, kl, nll, drawn = _complete(source, batch, reference, n_episodes, seed, deterministic)
    trained = count_trained([c.row for c in completions], trained_on, split, mixed=bool(batch.task.subtasks))
    judged, judge_parts = _judge_with_parts(scorers, completions)
    rewards, metrics = np.array([c.reward for c in completions]), _by_name([c.metrics for c in completions])
    check_metric_names(metrics)
    by_task = _by_task(batch.task, completions, {"reward": rewards, **judged, **metrics})
    return Evaluation(
        source=source.name,
        env_id=env_id if isinstance(env_id, str) else batch.task.name,
        split=split,
        seed=seed,
        reference=reference_name,
        reward=rewards,
        components=_by_name([c.components for c in completions]),
        judges=judged,
        judge_parts=judge_parts,
        kl=kl,
        nll=nll,
        length=np.array([len(c.columns) for c in completions]),
        eos=np.array([c.finish_reason in ENDED for c in completions]),
        distinct=np.array([_distinct(c.completion) for c in completions]),
        completions=completions,
        seconds=time.perf_counter() - started,
        completions_per_prompt=drawn,
        metrics=metrics | by_task,
        trained=trained,
        corpus=corpus_metrics(batch.task, completions, seed),
    )


def _distinct(text: str) -> float:
    """Return the share of distinct word bigrams in a text; 1 if it has none."""
    return distinct_bigrams([text]) if len(split_words(text)) > 1 else 1.0


class _Completed(NamedTuple):
    """Hold completions, what the reference says of them, and how many were drawn per prompt."""

    completions: list[Completion]
    reference: str | None
    kl: np.ndarray | None  # (n,)
    nll: np.ndarray | None  # (n,)
    drawn: int


def _complete(
    source: Source, batch: EpisodeBatch, reference: Any, n_episodes: int, seed: int, deterministic: bool
) -> _Completed:
    """Let the source complete the held-out prompts, and measure its completions against the reference."""
    kl = nll = None
    with source.acting(batch) as policy:
        name, reference_logits = find_reference(source, policy, batch, reference)
        indices = held_out_indices(batch, n_episodes)
        untrained = reference_logits == policy.reference_logits and is_reference(policy)
        completions = generate_in(batch, policy, indices, seed, deterministic, source.best_of, with_model=untrained)
        if untrained:  # decoding has found what a pass of the reference would find
            found = [c.model_log_probs for c in completions if c.model_log_probs is not None]
            kl, nll = np.zeros(n_episodes), np.array([-log_probs.sum(dtype=float) for log_probs in found])
        elif reference_logits is not None:
            kl, nll = measure_against(reference_logits, policy, completions)
    drawn = 1 if deterministic else source.best_of
    return _Completed(completions, name, None if kl is None else kl + np.log(drawn) - (drawn - 1) / drawn, nll, drawn)


def _by_name(found: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Return the values of n episodes by name, (n,) each; NaN where an episode has none of that name."""
    names = dict.fromkeys(name for values in found for name in values)
    return {name: np.array([values.get(name, np.nan) for values in found]) for name in names}


def _by_task(task: Task, completions: list[Completion], values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return values by task of a mixture, such as "sentiment/reward", (n,) each; NaN for episodes of other tasks."""
    tasks, found = np.array([c.row.get("task", "") for c in completions]), {}
    for name, one in task.subtasks.items():
        for key, array in values.items():
            own = np.where(tasks == name, array, np.nan)
            if key == "reward" or key in one.judges or not np.isnan(own).all():
                found[f"{name}/{key}"] = own
    return found


def find_judges(task: Any, judges: Sequence[str] | Judges | None) -> dict[str, Callable[..., Any]]:
    """Return judges by name; the task's own if none are named."""
    if isinstance(judges, Mapping):
        return dict(judges)
    if judges is None:
        return {name: task.get_judge(name) for name in getattr(task, "judges", ())}
    return {name: get_reward(name) for name in judges}


def judge_completions(judges: Judges, completions: list[Completion]) -> dict[str, np.ndarray]:
    """Return every judge's scores of the completions, (n,) each."""
    return _judge_with_parts(judges, completions)[0]


@frozen_rewards()  # a judge may be the very object that a run is constrained by
def _judge_with_parts(
    judges: Judges, completions: list[Completion]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return every judge's scores, and the components of the judges that have several, (n,) each."""
    prompts, answers = [c.asked for c in completions], [c.answered for c in completions]
    names = sorted({name for c in completions for name in c.row} - {"prompt"})
    columns: dict[str, list[Any]] = {name: [c.row.get(name) for c in completions] for name in names}
    columns["finish_reasons"] = [c.finish_reason for c in completions]
    columns["whole_prompts"] = [c.row.get("prompt", c.asked) for c in completions]
    columns["completion_ids"] = [c.input_ids[c.columns[0] + 1 :].tolist() for c in completions]
    found = {name: evaluate_reward(judge, prompts, answers, columns) for name, judge in judges.items()}
    parts = {part: scores for _, several in found.values() if len(several) > 1 for part, scores in several.items()}
    scores = {name: total for name, (total, _) in found.items()}
    return scores, {part: values for part, values in parts.items() if part not in scores}
