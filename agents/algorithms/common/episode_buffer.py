"""`EpisodeRolloutBuffer`: whole episodes, in whole groups of one prompt, for algorithms that compare completions."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from ...core.rollout_buffer import SequenceRolloutBuffer

__all__ = ["EpisodeRolloutBuffer", "EpisodeSamples"]


class Episode(NamedTuple):
    """The actions of an episode, or of its part so far, and the last context seen.

    Attributes:
        context: (length,) each, the observation in which the last action was chosen, padding cut off.
        columns: (n,) int64, where in the context each action was chosen; the prompt ends at the first.
        rewards: (n,) float32, the environment's.
    """

    context: dict[str, np.ndarray]
    columns: np.ndarray
    actions: np.ndarray
    log_probs: np.ndarray
    values: np.ndarray
    rewards: np.ndarray

    def then(self, rest: Episode) -> Episode:
        """This part followed by another of the same episode."""
        joined = (np.concatenate(pair) for pair in zip(self[1:], rest[1:], strict=True))
        return Episode(rest.context, *joined)

    @property
    def prompt(self) -> bytes:
        """The prompt's tokens, as a key."""
        return self.context["input_ids"][: self.columns[0] + 1].tobytes()


class EpisodeSamples(NamedTuple):
    """A minibatch of n actions of m whole episodes; `observations` as `SequenceRolloutBuffer` gives them.

    All but the observations are `(n,)`; `observations["rows"]` says which of the m episodes an action belongs to.
    """

    observations: dict[str, torch.Tensor]
    actions: torch.Tensor
    old_values: torch.Tensor
    old_log_prob: torch.Tensor
    reference_log_prob: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor

    def sum_by_episode(self, values: torch.Tensor) -> torch.Tensor:
        """Sums `(m,)` of `(n,)` values over the actions of each episode."""
        sums = values.new_zeros(len(self.observations["input_ids"]))
        return sums.index_add(0, self.observations["rows"], values)

    def one_by_episode(self, values: torch.Tensor) -> torch.Tensor:
        """The value `(m,)` of each episode, of `(n,)` values that are the same for all its actions."""
        return values.new_zeros(len(self.observations["input_ids"])).index_put((self.observations["rows"],), values)


class EpisodeRolloutBuffer(SequenceRolloutBuffer):
    """A rollout buffer that gives out finished episodes alone, and those of one prompt together.

    An episode that the end of a rollout cuts is kept until it has ended, and an episode waits until its group is
    complete: `group_size` episodes of the same prompt (the environment's `group_size` makes them start together). So
    none is dropped, and none is trained on twice. The actions of such an episode may be some updates older than
    the policy; their log-probabilities are those they were drawn with.

    After a rollout the arrays hold the episodes that are given out, `(n, 1)` for n actions, group after group, and
    `scores` the sum `(episodes,)` of each one's rewards. What the advantages are is up to the algorithm: it sets
    `advantages` and `returns` before it calls `get`.

    Args:
        group_size: episodes of a prompt that are given out together.

    The others are those of `SequenceRolloutBuffer`; the coefficient of the KL is here for the algorithm to use.
    """

    def __init__(self, *args: Any, group_size: int = 1, **kwargs: Any) -> None:
        for name in ("whiten_rewards", "value_shaping", "probability_shaping"):
            if kwargs.get(name):
                raise ValueError(f"{name}={kwargs[name]}: algorithms of whole episodes do not read it; take ppo or a2c")
        self.group_size = group_size
        self.scores = np.zeros(0, np.float32)
        self.reference_log_probs = np.zeros((0, 1), np.float32)
        self.forget()
        super().__init__(*args, **kwargs)

    def forget(self) -> int:
        """Drop the episodes that have not been given out, as when the environments are reset; returns how many."""
        dropped = len(getattr(self, "_begun", ())) + sum(map(len, getattr(self, "_waiting", {}).values()))
        self._begun: dict[int, Episode] = {}  # by environment, of episodes that are going on
        self._headless: set[int] = set()  # environments whose episode has lost its beginning
        self._waiting: dict[bytes, list[Episode]] = {}  # by prompt, of groups that are not complete
        return dropped

    def reset(self) -> None:
        """Empty the buffer for a rollout; what waits goes on waiting.

        After a rollout that was stopped it is not known where its episodes stand (SB3 acts on the observation before
        the last step again): their parts are dropped, and so is what is left of them in the rollouts to come.
        """
        if 0 < self.pos < self.buffer_size:
            self._begun, self._headless = {}, set(range(self.n_envs))
        super().reset()

    def get_state(self) -> dict[str, Any]:
        """What outlives a rollout, for `set_state` of another buffer of the same shape."""
        waiting = [episode._asdict() for group in self._waiting.values() for episode in group]
        begun = {str(env): episode._asdict() for env, episode in self._begun.items()}
        return {**super().get_state(), "waiting": waiting, "begun": begun, "headless": sorted(self._headless)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from where `get_state` was called."""
        super().set_state(dict(state))
        self.forget()
        self._begun = {int(env): Episode(**episode) for env, episode in state["begun"].items()}
        self._headless = set(state["headless"])
        self._wait(Episode(**episode) for episode in state["waiting"])

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: np.ndarray) -> None:
        """Take the episodes whose group is complete, and their log-probabilities under the reference.

        Raises:
            TypeError: the values do not come from a `TokenPolicy`, which holds the reference.
            FloatingPointError: a reward, a value or a log-probability is not finite.
        """
        policy = getattr(last_values, "policy", None)
        if policy is None:
            raise TypeError(f"{type(self).__name__} takes its reference from TokenPolicy: use it with that policy")
        self._check_finite(policy)
        self.controller.restore(policy.kl_coef)
        self._wait(self._finished(np.asarray(dones, bool)))
        self.lay_out(self._complete_groups())
        self.stats = {"kl_coef": self.controller.value}
        if self.n_segments:
            self.reference_log_probs = self._reference_log_probs(policy)
            if not np.isfinite(self.reference_log_probs).all():
                raise FloatingPointError("the reference's log-probabilities are not finite: lower learning_rate")
            self._record_kl()
        policy.kl_coef.fill_(self.controller.value)

    def _finished(self, dones: np.ndarray) -> list[Episode]:
        """The episodes that ended in this rollout, in that order; the parts of those going on are kept."""
        ends = np.vstack([self.episode_starts[1:], dones[None]]).astype(bool)
        finished: list[tuple[int, int, Episode]] = []
        for env in range(self.n_envs):
            if self.episode_starts[0, env]:
                self._begun.pop(env, None)
            bounds = [0, *(np.flatnonzero(ends[:, env]) + 1).tolist()]
            for start, end in zip(bounds, [*bounds[1:], self.buffer_size], strict=True):
                if start == end:
                    continue
                part = self._part(start, end, env)
                episode = self._begun.pop(env).then(part) if env in self._begun else part
                if env in self._headless:
                    if ends[end - 1, env]:
                        self._headless.remove(env)
                elif ends[end - 1, env]:
                    finished.append((end, env, episode))
                else:
                    self._begun[env] = episode
        return [episode for *_, episode in sorted(finished, key=lambda one: one[:2])]

    def _part(self, start: int, end: int, env: int) -> Episode:
        columns = self.columns[start:end, env].copy()
        contexts = {key: array[self.segments[end - 1, env]] for key, array in self.observations.items()}
        sequence = ("input_ids", "attention_mask")
        cut = {key: (c[: columns[-1] + 1] if key in sequence else c).copy() for key, c in contexts.items()}
        arrays = (self.actions[..., 0], self.log_probs, self.values, self.rewards)
        return Episode(cut, columns, *(array[start:end, env].copy() for array in arrays))

    def _wait(self, episodes: Iterable[Episode]) -> None:
        for episode in episodes:
            self._waiting.setdefault(episode.prompt, []).append(episode)

    def _complete_groups(self) -> list[Episode]:
        """Take the groups that are complete, one after the other."""
        taken: list[Episode] = []
        for prompt, waiting in list(self._waiting.items()):
            whole = len(waiting) // self.group_size * self.group_size
            taken += waiting[:whole]
            self._waiting[prompt] = waiting[whole:]
            if not self._waiting[prompt]:
                del self._waiting[prompt]
        return taken

    def lay_out(self, episodes: list[Episode]) -> None:
        """Put episodes in the place of the rollout: arrays `(n, 1)` of their n actions."""
        self.stats, self.trunk_states = {}, None
        self.n_segments, length = len(episodes), max((len(e.context["input_ids"]) for e in episodes), default=1)
        self.scores = np.array([e.rewards.sum() for e in episodes], np.float32)
        self.observations = {}
        for key in episodes[0].context if episodes else ():
            rows = [e.context[key] for e in episodes]
            if key in ("input_ids", "attention_mask"):
                rows = [np.pad(row, (0, length - len(row))) for row in rows]
            self.observations[key] = np.stack(rows)
        numbers = np.repeat(np.arange(len(episodes)), [len(e.columns) for e in episodes])
        self.segments = numbers[:, None].astype(np.int64)
        self.columns, actions, self.log_probs, self.values, self.rewards = (
            np.concatenate([getattr(e, name) for e in episodes])[:, None] if episodes else np.zeros((0, 1), kind)
            for name, kind in (
                ("columns", np.int64),
                ("actions", np.int64),
                ("log_probs", np.float32),
                ("values", np.float32),
                ("rewards", np.float32),
            )
        )
        self.actions = actions[:, :, None]
        self.advantages, self.returns, self.reference_log_probs = (np.zeros_like(self.rewards) for _ in range(3))

    @property
    def kl(self) -> np.ndarray:
        """`log pi - log pi_ref` of every action, (n, 1) float32: the k1 estimate a token."""
        return self.log_probs - self.reference_log_probs

    def sum_by_episode(self, values: np.ndarray) -> np.ndarray:
        """Sums (episodes,) of (n, 1) values over the actions of each episode."""
        return np.bincount(self.segments[:, 0], weights=values[:, 0], minlength=self.n_segments)

    def _record_kl(self) -> None:
        k3 = np.exp(-self.kl) - 1 + self.kl
        self.stats |= {
            "entropy": float(-self.log_probs.mean()),
            "kl": float(self.sum_by_episode(self.kl).mean()),
            "kl_k3": float(self.sum_by_episode(k3).mean()),
        }
        self.controller.update(self.stats["kl"], self.n_segments)

    def get(self, batch_size: int | None = None) -> Generator[EpisodeSamples, None, None]:  # type: ignore[override]
        """Yield minibatches of whole groups, of about `batch_size` tokens each, every group once, in random order."""
        if not self.n_segments:
            return
        groups = np.arange(self.n_segments).reshape(-1, self.group_size)
        order = groups[np.random.permutation(len(groups))]
        for chosen in self._batches_of_groups(batch_size, order):
            samples = self._segment_samples(chosen)
            yield EpisodeSamples(
                samples.observations,
                samples.actions,
                *(
                    self.to_torch(array[samples.steps])
                    for array in (
                        self.values,
                        self.log_probs,
                        self.reference_log_probs,
                        self.advantages,
                        self.returns,
                    )
                ),
            )

    def _batches_of_groups(self, batch_size: int | None, order: np.ndarray) -> Generator[np.ndarray, None, None]:
        """Cut groups, (g, group_size) episodes in the given order, into batches of nearly equal numbers of actions."""
        lengths = np.bincount(self.segments[:, 0], minlength=self.n_segments)[order].sum(axis=1)
        total = int(lengths.sum())
        n_batches = 1 if batch_size is None else max(1, round(total / batch_size))
        middle = np.cumsum(lengths) - lengths / 2
        number = np.minimum((middle * n_batches / total).astype(int), n_batches - 1)
        for i in np.unique(number):
            yield np.sort(order[number == i].reshape(-1))
