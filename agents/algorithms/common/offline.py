"""Hold what DPO and KTO share: they learn from rows that people judged, against the frozen reference."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import Schedule

from rlhf_envs.pictures import Pictures

from ...core import ranks
from ...core.episodes import open_batch
from ...core.observations import PIXELS
from ...core.policy import TokenPolicy
from .episode_buffer import Episode, EpisodeRolloutBuffer
from .policy_gradient import NO_CRITIC, NO_KL, PolicyGradient, spread
from .preference_data import Columns, Logged, Rows, fingerprint, read_logged

__all__ = ["OfflinePreferences", "as_the_model", "hand_out", "take_rows"]

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class OfflinePreferences(PolicyGradient):
    """Learn from judged rows instead of rollouts. A subclass gives `columns` and `_loss`.

    The loss finds each episode's `Logged.share` in `samples.returns` and its `Logged.weight` in `samples.advantages`.

    Args:
        data: rows, or the path of a file of them. None takes those of the environment's training data, if it has such
            columns, or waits for `set_data`.
        beta: weight of the KL to the reference in the loss.
        assistant_only_loss: of completions of several turns, learn the assistant's tokens alone, as TRL's SFT can.
            False learns all tokens from the first answer on, as TRL's DPO and KTO do.

    Attributes:
        columns: how a row is read.

    Raises:
        ValueError: `beta` is not above 0, or a row cannot be read.
    """

    kl_argument = "beta"
    has_rollouts = False
    importance = None
    unused = PolicyGradient.unused | NO_CRITIC | NO_KL
    unused |= {"report_kl": True, "ent_coef": 0.0, "engine": None, "group_size": 1}
    columns: ClassVar[Columns]

    def __init__(
        self,
        policy: Any = None,
        env: Any = None,
        learning_rate: float | Schedule | None = None,
        batch_size: int | None = 512,
        data: str | Path | Rows | None = None,
        beta: float = 0.1,
        assistant_only_loss: bool = True,
        **kwargs: Any,
    ) -> None:
        if not beta > 0:
            raise ValueError(f"beta={beta}: expected a number above 0, the weight of the KL to the reference")
        self.data, self.beta, self.assistant_only_loss = data, beta, assistant_only_loss
        self._logged: list[Logged] = []
        self._pictures: Pictures | None = None  # of the rows
        self._drawn: list[Logged] = []  # the rows of this rollout
        self._order, self._next = np.zeros(0, np.int64), 0  # the rows of this epoch, and how many are done
        self._known: str | None = None  # the fingerprint of the data that the order is of
        super().__init__(policy, env, learning_rate, batch_size=batch_size, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.rollout_buffer.group_size = self.columns.n_completions
        assert self.env is not None
        batch = open_batch(self.env, 1)
        own = [row for row in batch.rows if all(row.get(name) is not None for name in self.columns.names)]
        if self.data is not None:
            self.set_data(self.data)
        elif own:
            if len(own) < len(batch.rows):
                left_out, names = len(batch.rows) - len(own), " and ".join(self.columns.names)
                logger.warning("%d of %d rows left out, because they have no %s", left_out, len(batch.rows), names)
            self.set_data(own)

    def set_data(self, data: str | Path | Rows) -> None:
        """Learn from these rows from now on: a path of a file, or rows. Other rows than before begin a new pass.

        A saved agent keeps only what `data` was given when it was made, and not a file's path: give that again.

        Raises:
            ValueError, FileNotFoundError: see `agents.algorithms.common.preference_data.read_logged`.
        """
        batch = open_batch(self.env, 1)
        self._logged, self._pictures = read_logged(data, batch, self.columns, self.assistant_only_loss)
        if (found := fingerprint(self._logged)) != self._known:
            if self._known is not None:
                logger.info("%s: other rows than before, so a new pass over them begins", type(self).__name__)
            self._known, self._order, self._next = found, np.zeros(0, np.int64), 0

    @property
    def data_checksum(self) -> str | None:
        """Return what is equal on all ranks that learn from the same rows; None without rows."""
        return self._known

    def set_pairs(self, pairs: Rows) -> None:
        """Learn from pairs `{prompt, chosen, rejected}` from now on, as `set_data` does; ties teach nothing.

        Raises:
            ValueError: a row cannot be read.
        """
        self.set_data([row for row in pairs if row.get("probability") != 0.5])

    def _excluded_save_params(self) -> list[str]:
        a_file = ["data"] if isinstance(self.data, str | Path) else []
        return [*super()._excluded_save_params(), "_logged", "_drawn", "_pictures", *a_file]

    def check_rows(self) -> None:
        """Raise ValueError if there are no rows to learn from; they may come after the agent is made."""
        if not self._logged:
            name, names = type(self).__name__, ", ".join(("prompt", *self.columns.names))
            raise ValueError(
                f"{name} has no rows to learn from: give a file with rows of {names}, as the environment's data "
                "(--data FILE) or beside it (-params data:FILE)"
            )

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        self.check_rows()
        return super()._setup_learn(*args, **kwargs)

    def collect_rollouts(
        self, env: Any, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int, *args: Any
    ) -> bool:
        """Take rows with as many tokens as a rollout has, and ask the reference about them."""
        callback.on_rollout_start()
        self._drawn = take_rows(self, self._logged, lambda row: row.n_tokens, n_rollout_steps * env.num_envs)
        with as_the_model(self.policy):
            episodes = [episode for row in self._drawn for episode in row.episodes]
            return hand_out(self, episodes, callback, True, self._pictures)

    def train(self) -> None:
        """Update the policy, as the plain model decodes."""
        with as_the_model(self.policy):
            super().train()

    def _advantages(self, buffer: EpisodeRolloutBuffer) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows' weights and shares, which are no advantages."""

        def of_actions(name: Literal["weight", "share"]) -> np.ndarray:
            return spread(np.repeat([getattr(row, name) for row in self._drawn], buffer.group_size), buffer)

        return of_actions("weight"), of_actions("share")


def take_rows(agent: Any, rows: Sequence[Item], n_tokens: Callable[[Item], int], wanted: int) -> list[Item]:
    """Return the next rows of an agent's data, in passes of random order, with as many tokens as a rollout has.

    In a data-parallel run all ranks take the same rows, of which each is given a part, at least one.

    Args:
        agent: keeps the order of the pass, `_order`, and how many of its rows are done, `_next`.
        rows: the data.
        n_tokens: returns the tokens of a row that are learned.
        wanted: the tokens of a rollout of one rank.
    """
    taken: list[Item] = []
    while sum(map(n_tokens, taken)) < wanted * ranks.size() or len(taken) < ranks.size():
        if agent._next == len(agent._order) or len(agent._order) != len(rows):
            agent._order, agent._next = ranks.from_first(np.random.permutation(len(rows))), 0
        taken.append(rows[agent._order[agent._next]])
        agent._next += 1
    own = np.array_split(np.arange(len(taken)), ranks.size())[ranks.rank()]
    return [taken[i] for i in own]


def hand_out(
    agent: Any,
    episodes: list[Episode],
    callback: BaseCallback,
    ask_reference: bool,
    pictures: Pictures | None = None,
) -> bool:
    """Give the buffer of an agent episodes of data in the place of a rollout; return whether training goes on.

    With `pictures`, each episode is shown that of its `row`.
    """
    buffer, n_envs = agent.rollout_buffer, agent.env.num_envs
    if pictures is not None:
        episodes = [one._replace(context=one.context | {PIXELS: pictures[one.row]}) for one in episodes]
    buffer.lay_out(episodes)
    if ask_reference:
        buffer.ask_reference(agent.policy)
    agent.num_timesteps += (own := sum(len(episode.actions) for episode in episodes))
    nothing = np.zeros(n_envs)
    seen = dict(rewards=nothing, dones=nothing.astype(bool), infos=[{}] * n_envs)
    seen |= dict(n_steps=0, n_rollout_steps=1, tokens_elsewhere=ranks.total(own) - own)
    callback.update_locals({"self": agent, "rollout_buffer": buffer, **seen})
    if not callback.on_step():
        return False
    callback.on_rollout_end()
    return True


@contextmanager
def as_the_model(policy: TokenPolicy) -> Iterator[None]:
    """Let a policy decode as the plain model does in a block: at temperature 1, without top-k and top-p.

    It holds in backward passes too, which may compute activations again.
    """
    saved = policy.temperature, policy.top_k, policy.top_p
    policy.temperature, policy.top_k, policy.top_p = 1.0, None, None
    try:
        yield
    finally:
        policy.temperature, policy.top_k, policy.top_p = saved
