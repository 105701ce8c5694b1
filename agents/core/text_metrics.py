"""Log what TensorBoard shows of a run, under one set of tags for every algorithm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam

from rlhf_envs.datasets.messages import said
from rlhf_envs.dialogs import ENDED
from rlhf_envs.rendering import as_markdown
from rlhf_envs.rewards import evaluate_reward
from rlhf_envs.words import ngrams

from . import ranks
from .samples import sample_markdown

__all__ = ["TEXT_ONLY", "TextMetrics", "check_metric_names", "distinct_bigrams", "distinct_ngrams", "list_episodes"]

BUFFER_STATS = ("kl", "kl_k3", "kl_coef", "entropy", "shaping_value", "shaping_probability", "sampling_logp_difference")
TEXT_ONLY = ("stdout", "log", "json", "csv")
RewardFunction = Callable[..., Sequence[float]]
ADDED = ("adversarial", "sft")  # attributes of policies that add a loss to every update
TAKEN = {"reward", "length", "eos_share", "distinct_bigrams", "distinct_within", "perplexity", "tokens_per_second"}
TAKEN |= {"samples", "adversarial_kl", "alarm", "sft_loss", *BUFFER_STATS}


def check_metric_names(names: Iterable[str]) -> None:
    """Raise a ValueError if a metric of a task or of a reward has the name of another metric."""
    if taken := TAKEN.intersection(names):
        raise ValueError(
            f"Task.metrics, or log_metric of a reward, gives {sorted(taken)[0]!r}, which is the name of another "
            "metric: rename it"
        )


def distinct_bigrams(texts: Sequence[str]) -> float:
    """Return distinct-2 (Li et al. 2016): different word bigrams of the texts over all of them; 0 if there is none."""
    return distinct_ngrams(texts, 2)


def distinct_ngrams(texts: Sequence[str], n: int) -> float:
    """Return distinct-n (Li et al. 2016): different word n-grams of the texts over all of them; 0 if there is none."""
    found = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(found)) / len(found) if found else 0.0


class TextMetrics(BaseCallback):
    """Log the metrics of the episodes that ended in each rollout, under `rlhf/`; of all ranks, on the first one.

    - `rlhf/reward` and `rlhf/reward_<component>`: means per episode, before the KL penalty; `rlhf/<judge>` for judges
      and, where they have several, their parts, such as `rlhf/gold_language`;
      `rlhf/<metric>` for the metrics of the task and what rewards give to `log_metric`;
    - `rlhf/none_<component>`: the share of the episodes to which a component did not apply, where there were any;
    - `rlhf/<task>/<metric>`, in a mixture: all of these of the episodes of a task, and `rlhf/<task>/share`, its share
      of the episodes;
    - `rlhf/kl`, `rlhf/kl_k3`: the KL to the reference in nats per episode, as the k1 and k3 estimates of
      http://joschu.net/blog/kl-approx.html; `rlhf/kl_coef`; `rlhf/entropy`: nats per token;
    - `rlhf/length` in tokens, `rlhf/eos_share`, `rlhf/distinct_bigrams` (the share among every 32 completions),
      `rlhf/tokens_per_second` (rollout and update);
    - `rlhf/adversarial_kl`, with adversarial training: nats per action, in the update before the rollout;
    - `rlhf/sft_loss`, with a supervised loss (`sft_coef`): nats per token of its data, in the same update;
    - `rlhf/samples`: completions as text, and the hyperparameters with their metrics on the HPARAMS page.

    Args:
        judges: further reward functions by the name of their tag. They score the finished episodes, and the agent does
            not train against them. The default is the task's own, "gold" for sentiment.
        n_samples: completions shown per rollout.
    """

    def __init__(self, judges: dict[str, RewardFunction] | None = None, n_samples: int = 4) -> None:
        super().__init__()
        self._given = judges
        self.judges: dict[str, RewardFunction] = judges or {}
        self.n_samples = n_samples
        self._episodes: list[dict[str, Any]] = []
        self._clock, self._tokens = time.perf_counter(), 0
        self._added: dict[str, float] = {}  # metrics of the update before, which the next rollout logs
        self._restored: Mapping[str, Any] = {}

    def get_state(self) -> dict[str, Any]:
        """Return what `set_state` needs to go on exactly; call it between rollouts."""
        self._added |= self._added_metrics()
        return {"running": self._running.copy(), "episodes": list(self._episodes), "added": dict(self._added)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `get_state` when training starts."""
        self._restored = state

    def _on_training_start(self) -> None:
        self._running = np.zeros((2, self.training_env.num_envs))  # reward and tokens so far of the episodes going on
        if self._restored and self._restored["running"].shape == self._running.shape:
            self._running, self._episodes = self._restored["running"].copy(), list(self._restored["episodes"])
        self._added = dict(self._restored.get("added", {}))
        self._restored = {}
        env = self.training_env
        self._rows: list[dict[str, Any]] = env.get_attr("rows", 0)[0] if env.has_attr("rows") else []
        if self._given is None:
            task = env.get_attr("task", 0)[0] if env.has_attr("task") else None
            self.judges = {} if task is None else {name: task.get_judge(name) for name in getattr(task, "judges", ())}
        metrics = {f"rlhf/{name}": 0.0 for name in ("reward", "kl", *self.judges)}
        self.logger.record("hparams", HParam(_hyperparameters(self.model), metrics), exclude=TEXT_ONLY)
        self._clock, self._tokens = time.perf_counter(), self.num_timesteps
        self._updates = getattr(self.model, "_n_updates", 0)

    def _on_step(self) -> bool:
        dones = np.asarray(self.locals["dones"], bool)
        self._running += np.stack([np.asarray(self.locals["rewards"], float), np.ones(len(dones))])
        for row in np.flatnonzero(dones):
            info = self.locals["infos"][row]
            if "completion" in info:
                reward, length = self._running[:, row]
                # The info itself, not a copy: its score may come after the rollout.
                self._episodes.append(info if "episode" in info else {**info, "episode": {"r": reward, "l": length}})
        self._running[:, dones] = 0
        return True

    def _on_rollout_end(self) -> None:
        now = time.perf_counter()
        metrics = {"tokens_per_second": (self.num_timesteps - self._tokens) / max(now - self._clock, 1e-9)}
        self._clock, self._tokens = now, self.num_timesteps
        stats = getattr(self.locals.get("rollout_buffer") or self.locals.get("replay_buffer"), "stats", {})
        metrics |= {name: stats[name] for name in BUFFER_STATS if name in stats}
        metrics |= self._added | self._added_metrics()
        self._added = {}
        # An episode of a rollout that was stopped before may never have got a score.
        self._episodes = ranks.gathered([info for info in self._episodes if "reward_components" in info])
        if self._episodes:
            metrics |= self._episode_metrics()
            self._show_samples()
            self._episodes = []
        for name, value in metrics.items():
            # The console cuts names, and two of a mixture may become one.
            self.logger.record_mean(f"rlhf/{name}", value, exclude=("stdout", "log") if "/" in name else None)

    def _added_metrics(self) -> dict[str, float]:
        """Return the metrics of the losses that the policy adds to an update, of the one before this rollout.

        Raises:
            TypeError: the policy asks for such a loss, and an update went by without it.
        """
        updates = getattr(self.model, "_n_updates", 0)
        updated, self._updates = updates > self._updates, updates
        metrics: dict[str, float] = {}
        for name in ADDED:
            if (added := getattr(self.model.policy, name, None)) is None:
                continue
            found = added.take_metrics()
            if updated and not found:
                raise TypeError(
                    f"{name}_coef={added.coef} does nothing in {type(self.model).__name__}: it differentiates no "
                    f"evaluate_actions; take {name}_coef=0, or an algorithm that does, such as ppo"
                )
            metrics |= found
        return metrics

    def _episode_metrics(self) -> dict[str, float]:
        episodes = self._episodes
        values: dict[str, Any] = {
            "length": [info["episode"]["l"] for info in episodes],
            "reward": [info["episode"]["r"] for info in episodes],
            "eos_share": [info["finish_reason"] in ENDED for info in episodes],
            **_components(episodes),
        }
        for source in ("metrics", "logged"):
            measured = [info.get(source, {}) for info in episodes]
            for name in sorted({name for found in measured for name in found}):
                check_metric_names([name, *(["reward"] if name in values else [])])
                values[name] = [found.get(name, np.nan) for found in measured]
        values |= self._judge_scores()
        texts, arrays = (
            [said(info["completion"]) for info in episodes],
            {n: np.array(v, float) for n, v in values.items()},
        )
        return _means(arrays) | {"distinct_bigrams": _distinct_per_group(texts)} | _means_by_task(arrays, episodes)

    def _judge_scores(self) -> dict[str, np.ndarray]:
        """Return the judges' scores of the episodes, and the parts of judges that have several, (n,) each."""
        prompts, completions = ([info[name] for info in self._episodes] for name in ("prompt", "completion"))
        rows = [self._rows[info["index"]] if self._rows else {} for info in self._episodes]
        columns = {name: [row.get(name) for row in rows] for name in {n for row in rows for n in row} - {"prompt"}}
        columns["finish_reasons"] = [info["finish_reason"] for info in self._episodes]
        columns["whole_prompts"] = [row.get("prompt", prompt) for row, prompt in zip(rows, prompts, strict=True)]
        if all("completion_ids" in info for info in self._episodes):  # those that older releases saved have none
            columns["completion_ids"] = [info["completion_ids"] for info in self._episodes]
        found: dict[str, np.ndarray] = {}
        for name, judge in self.judges.items():
            scores, parts = evaluate_reward(judge, prompts, completions, columns)
            found |= {**(parts if len(parts) > 1 else {}), name: scores}
        return found

    def _show_samples(self) -> None:
        self.logger.record("rlhf/samples", list_episodes(self._episodes[: self.n_samples]), exclude=TEXT_ONLY)


def list_episodes(infos: Sequence[Mapping[str, Any]]) -> str:
    """Return rewards, prompts and completions of finished episodes as a list in Markdown."""
    return "\n".join(
        f"- `{info['episode']['r']:.2f}` {sample_markdown(info['prompt'], info['completion'])}{_extra(info)}"
        for info in infos
    )


def _extra(info: Mapping[str, Any]) -> str:
    """Return what rewards gave to `log_extra` for an episode, in Markdown."""
    return "".join(f" ({as_markdown(f'{column}: {value}')})" for column, value in info.get("extra", {}).items())


def _means(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the means of the numbers that are there, NaN being none; nothing where there is none."""
    return {name: float(np.nanmean(found)) for name, found in values.items() if not np.isnan(found).all()}


def _components(infos: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return the components of the rewards of n episodes, (n,) each, and where one of its own task has none, if any."""
    components, tasks = [info["reward_components"] for info in infos], _tasks(infos)
    found: dict[str, np.ndarray] = {}
    for name in sorted({name for scores in components for name in scores}):
        found[f"reward_{name}"] = scores = np.array([scores.get(name, np.nan) for scores in components])
        silent = np.isnan(scores)
        own = np.isin(tasks, tasks[~silent])
        if (silent & own).any():
            found[f"none_{name}"] = np.where(own, silent, np.nan)
    return found


def _means_by_task(values: Mapping[str, np.ndarray], infos: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the means of values (n,) over the episodes of each task of a mixture, and the shares of the tasks."""
    tasks, means = _tasks(infos), dict[str, float]()
    for task in sorted({*tasks} - {""}):
        own = {name: found[tasks == task] for name, found in values.items() if "/" not in name}
        means |= {f"{task}/{name}": mean for name, mean in _means({**own, "share": tasks == task}).items()}
    return means


def _tasks(infos: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the task of each episode in a mixture, (n,) texts, empty ones elsewhere."""
    return np.array([info.get("task", "") for info in infos])


def _distinct_per_group(completions: Sequence[str], size: int = 32) -> float:
    """Return the mean of `distinct_bigrams` over groups of `size` texts.

    The share falls as texts are added, so without groups of one size, rollouts of different lengths would not compare.
    """
    groups = [completions[i : i + size] for i in range(0, max(len(completions) - size, 0) + 1, size)]
    return float(np.mean([distinct_bigrams(group) for group in groups]))


def _hyperparameters(model: Any) -> dict[str, bool | str | float | int]:
    """Return the plain arguments of an agent, its policy and its buffer."""
    own = {name: getattr(model, name, None) for name in ("learning_rate", "n_steps", "batch_size", "n_epochs", "seed")}
    own |= {name: getattr(model, name, None) for name in ("gamma", "gae_lambda", "ent_coef", "vf_coef", "n_envs")}
    nested = [getattr(model, name, None) or {} for name in ("policy_kwargs", "rollout_buffer_kwargs")]
    chosen = {"algorithm": type(model).__name__, **own, **nested[0], **nested[1]}
    return {name: value for name, value in chosen.items() if isinstance(value, bool | str | float | int)}
