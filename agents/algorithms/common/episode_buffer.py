"""Define `EpisodeRolloutBuffer`: whole episodes, in groups of one row, for algorithms that compare completions."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ...core import ranks
from ...core.frozen_states import RolloutStates
from ...core.kl_penalty import k3
from ...core.observations import PIXELS
from ...core.segment_buffer import TOKENS_AT_ONCE, SegmentBuffer
from .credit import Turns, turn_numbers

__all__ = ["EpisodeRolloutBuffer", "EpisodeSamples"]


class Episode(NamedTuple):
    """Hold the actions of an episode, or of its part so far, and the last context seen.

    Attributes:
        context: (length,) each, the observation in which the last action was chosen, padding cut off.
        columns: (n,) int64, where in the context each action was chosen; the prompt ends at the first.
        rewards: (n,) float32, the environment's.
        row: the row of the data, which is known once the episode has ended; -1 if it is not known.
        segment: its number in the rollout in which it ended; -1 in later rollouts.
    """

    context: dict[str, np.ndarray]
    columns: np.ndarray
    actions: np.ndarray
    log_probs: np.ndarray
    values: np.ndarray
    rewards: np.ndarray
    row: int = -1
    segment: int = -1

    def then(self, rest: Episode) -> Episode:
        """Return this part followed by another part of the same episode."""
        names = Episode._fields[1:-2]
        joined: Any = {name: np.concatenate([getattr(self, name), getattr(rest, name)]) for name in names}
        return rest._replace(**joined)

    @property
    def key(self) -> int | bytes:
        """Return what the episodes of a group share: the row of the data, or the prompt's tokens if it is not known.

        Two rows may have one prompt and other columns, such as an answer: their completions do not compare.
        """
        if self.row >= 0:
            return self.row
        pictures = [self.context[key].tobytes() for key in (PIXELS,) if key in self.context]
        return b"".join([self.context["input_ids"][: self.columns[0] + 1].tobytes(), *pictures])


class EpisodeSamples(NamedTuple):
    """Hold a minibatch of n actions of m whole episodes.

    The observations have one row per episode, and `observations["rows"]` says which episode an action belongs to. All
    other tensors are `(n,)`.
    """

    observations: dict[str, torch.Tensor]
    actions: torch.Tensor
    old_values: torch.Tensor
    old_log_prob: torch.Tensor
    reference_log_prob: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor

    @property
    def turns(self) -> torch.Tensor:
        """Return the turn that each action belongs to, `(n,)` int64, counted through all episodes from 0."""
        return turn_numbers(self.observations["rows"], self.observations["columns"])

    def sum_by_episode(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sums `(m,)` of `(n,)` values over the actions of each episode."""
        sums = values.new_zeros(len(self.observations["input_ids"]))
        return sums.index_add(0, self.observations["rows"], values)

    def one_by_episode(self, values: torch.Tensor) -> torch.Tensor:
        """Return one value per episode, `(m,)`, from `(n,)` values that are equal for all actions of an episode."""
        return values.new_zeros(len(self.observations["input_ids"])).index_put((self.observations["rows"],), values)


class EpisodeRolloutBuffer(SegmentBuffer):
    """Hand out finished episodes only, and the episodes of one row of data together.

    An episode that the end of a rollout cuts is kept until it has ended, and an episode waits until its group is
    complete: `group_size` episodes of the same row (the environment's `group_size` makes them start together). So none
    is dropped, and none is trained on twice. The actions of such an episode may be several updates older than the
    policy; their log-probabilities are from when they were drawn.

    After a rollout the arrays hold the episodes that are handed out, `(n, 1)` for n actions, group after group, and
    `scores` holds the sum of each episode's rewards, `(episodes,)`. The algorithm decides what the advantages are and
    what the KL costs: it sets `advantages` and `returns` before it calls `get`.

    Args:
        group_size: episodes of one row that are handed out together.

    The other arguments are `SegmentBuffer`'s.
    """

    def __init__(self, *args: Any, group_size: int = 1, **kwargs: Any) -> None:
        self.group_size = group_size
        self._begun: dict[int, Episode] = {}  # by environment: episodes that go on
        self._headless: set[int] = set()  # environments whose episode has lost its beginning
        self._waiting: dict[int | bytes, list[Episode]] = {}  # by `Episode.key`: groups that are not complete
        super().__init__(*args, **kwargs)
        self.scores = np.zeros(0, np.float32)
        self.reference_log_probs = np.zeros((0, 1), np.float32)

    def forget(self) -> int:
        """Drop the episodes that have not been handed out, as when the environments are reset; return how many."""
        dropped = len(self._begun) + sum(map(len, self._waiting.values()))
        self._begun, self._headless, self._waiting = {}, set(), {}
        return dropped

    def reset(self) -> None:
        """Empty the buffer for a rollout; episodes that wait go on waiting.

        After a rollout that was stopped it is not known where its episodes stand (SB3 acts on the observation before
        the last step again). Their parts are dropped, and so is what is left of them in later rollouts.
        """
        if self.stopped:
            self._begun, self._headless = {}, set(range(self.n_envs))
        super().reset()
        self._segments_before: np.ndarray | None = None  # (n_segments,) once episodes are laid out
        self.rows = np.full((self.buffer_size, self.n_envs), -1)  # the row of the data, where an episode ends

    def note_rows(self, infos: Sequence[Mapping[str, Any]]) -> None:
        """Take the row of the data from the infos of a step, before `add` takes the step itself.

        Args:
            infos: one per environment; `index` is the row. Other environments than ours may have none.
        """
        self.rows[self.pos] = [info.get("index", -1) for info in infos]

    def get_state(self) -> dict[str, Any]:
        """Return what outlives a rollout, for `set_state` of another buffer of the same shape."""
        waiting = [episode._asdict() for group in self._waiting.values() for episode in group]
        begun = {str(env): episode._asdict() for env, episode in self._begun.items()}
        return {**super().get_state(), "waiting": waiting, "begun": begun, "headless": sorted(self._headless)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from where `get_state` was called."""
        super().set_state(state)
        self.forget()
        self._begun = {int(env): Episode(**episode) for env, episode in state["begun"].items()}
        self._headless = set(state["headless"])
        self._wait(Episode(**episode) for episode in state["waiting"])

    # After a rollout

    def _finish_rollout(self, policy: Any, last_values: torch.Tensor, dones: np.ndarray) -> None:
        """Take the episodes whose group is complete, and find their log-probabilities under the reference."""
        self._wait(self._finished(dones))
        self.lay_out(self._complete_groups())
        self.stats = {"kl_coef": self.controller.value}
        if self.n_segments:
            self.ask_reference(policy)
            self.stats["entropy"] = -ranks.mean(self.log_probs)
        if self.n_segments and self.report_kl:
            self.stats["kl"] = ranks.mean(self.sum_by_episode(self.kl))
            self.stats["kl_k3"] = ranks.mean(self.sum_by_episode(k3(self.kl)))
            self.controller.update(self.stats["kl"], ranks.total(self.n_segments))

    def _finished(self, dones: np.ndarray) -> list[Episode]:
        """Return the episodes that ended in this rollout, in that order, and keep the parts of the others."""
        ends = self._ends(dones)
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
        actions, log_probs, values, rewards = (array[start:end, env].copy() for array in arrays)
        row, segment = int(self.rows[end - 1, env]), int(self.segments[end - 1, env])
        return Episode(cut, columns, actions, log_probs, values, rewards, row, segment)

    def _wait(self, episodes: Iterable[Episode]) -> None:
        for episode in episodes:
            self._waiting.setdefault(episode.key, []).append(episode)

    def _complete_groups(self) -> list[Episode]:
        """Take the complete groups out of `_waiting`, and return their episodes group after group.

        While a rank of a data-parallel run has none, all wait: an update needs a part from each.
        """
        taken: list[Episode] = []
        if not ranks.agreed(any(len(waiting) >= self.group_size for waiting in self._waiting.values())):
            self._waiting = {k: [e._replace(segment=-1) for e in waiting] for k, waiting in self._waiting.items()}
            return taken
        for key, waiting in list(self._waiting.items()):
            whole = len(waiting) // self.group_size * self.group_size
            taken += waiting[:whole]
            self._waiting[key] = [episode._replace(segment=-1) for episode in waiting[whole:]]
            if not self._waiting[key]:
                del self._waiting[key]
        return taken

    def lay_out(self, episodes: list[Episode]) -> None:
        """Put episodes in the place of the rollout: arrays `(n, 1)` for their n actions."""
        self.stats, self._segments_before = {}, np.array([e.segment for e in episodes], np.int64)
        if self.trunk_states:  # in bfloat16, of the rollout as it was
            self.trunk_states = RolloutStates()
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

        def joined(name: str, kind: type[np.generic]) -> Any:  # (n, 1)
            return np.concatenate([np.zeros(0, kind), *(getattr(e, name) for e in episodes)], dtype=kind)[:, None]

        self.columns, self.actions = joined("columns", np.int64), joined("actions", np.int64)[:, :, None]
        names = ("log_probs", "values", "rewards")
        self.log_probs, self.values, self.rewards = (joined(name, np.float32) for name in names)
        self.advantages, self.returns, self.reference_log_probs = (np.zeros_like(self.rewards) for _ in range(3))

    def ask_reference(self, policy: Any) -> None:
        """Find the log-probabilities of the actions that are laid out under the reference."""
        self.reference_log_probs = self.reference_log_probs_of(policy)

    def _sources(self) -> np.ndarray:
        return super()._sources() if self._segments_before is None else self._segments_before

    @property
    def kl(self) -> np.ndarray:
        """Return `log pi - log pi_ref` of every action, `(n, 1)` float32: the k1 estimate per token."""
        return self.log_probs - self.reference_log_probs

    @property
    def kl_coef(self) -> float:
        """Return the coefficient of the KL penalty for this rollout; the controller may have moved on since."""
        return self.stats["kl_coef"]

    def sum_by_episode(self, values: np.ndarray) -> np.ndarray:
        """Return the sums `(episodes,)` of `(n, 1)` values over the actions of each episode."""
        return np.bincount(self.segments[:, 0], weights=values[:, 0], minlength=self.n_segments)

    def turns(self, rewards: np.ndarray) -> Turns:
        """Return the returns by turn of `(n, 1)` rewards."""
        return Turns.of(rewards, self.segments, self.columns)

    def recompute(self, policy: Any) -> None:
        """Replace the log-probabilities and values, which are from when actions were drawn, by the policy's of now."""
        self.log_probs, self.values = np.zeros_like(self.log_probs), np.zeros_like(self.values)
        for chosen in self._batches(TOKENS_AT_ONCE, np.arange(self.n_segments)[:, None]):
            samples = self._segment_samples(chosen)
            values, log_probs = policy.values_and_log_probs(samples.observations, samples.actions)
            self.values[samples.steps] = values.cpu().numpy().reshape(-1)
            self.log_probs[samples.steps] = log_probs.cpu().numpy()

    # Minibatches

    def get(self, batch_size: int | None = None) -> Generator[EpisodeSamples, None, None]:  # type: ignore[override]
        """Yield minibatches of whole groups, of about `batch_size` tokens each, every group once, in random order.

        In a data-parallel run a minibatch has so many tokens on all ranks together, and is `AllRanks`.
        """
        if not self.n_segments:
            return
        groups = np.arange(self.n_segments).reshape(-1, self.group_size)
        for chosen in self._batches(batch_size, groups[np.random.permutation(len(groups))], over_ranks=True):
            samples = self._segment_samples(np.sort(chosen))
            arrays = (self.values, self.log_probs, self.reference_log_probs, self.advantages, self.returns)
            taken = (ranks.parts(self.to_torch(array[samples.steps])) for array in arrays)
            yield EpisodeSamples(samples.observations, samples.actions, *taken)
