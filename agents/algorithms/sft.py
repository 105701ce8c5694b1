"""Train with supervised fine-tuning (SFT): on references, or on the best of n completions."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule

from rlhf_envs.episodes import EpisodeBatch
from rlhf_envs.tokens import check_text, encode_completion

from ..core.completions import LEFT_OUT, LOST_END, cut_end, is_cut_short, is_empty, log_counts, read_completion
from ..core.episodes import open_batch
from .common.episode_buffer import Episode, EpisodeRolloutBuffer, EpisodeSamples
from .common.offline import as_the_model, hand_out, take_rows
from .common.policy_gradient import NO_CRITIC, NO_KL, PolicyGradient, spread
from .common.preference_data import Logged, as_episode, fingerprint
from .common.text_agent import NO_DATA

__all__ = ["SFT"]

logger = logging.getLogger(__name__)


class SFT(PolicyGradient):
    """Train with supervised fine-tuning (SFT), on references or on the best of n completions.

    Papers: for references Ouyang et al. 2022, "Training language models to follow instructions with human feedback",
    https://arxiv.org/abs/2203.02155, section 3.5; for the best of n Dong et al. 2023, "RAFT: Reward rAnked FineTuning
    for Generative Foundation Model Alignment", https://arxiv.org/abs/2304.06767. The loss is the mean cross-entropy of
    the completions' tokens, EOS included.

    Departures: references are trained on at temperature 1, whatever temperature the agent decodes at, as is usual. The
    best of n are trained on at the temperature that they were drawn at. They are drawn anew in every rollout, by the
    agent as it is then. Tokens of references count as sampled tokens do. Of the best of n, the tokens of all n
    completions count. There is no KL penalty. A row with `"finish_reason": "length"` has no EOS.

    When to use it: first, where the data has good completions, or as the baseline that reinforcement learning has to
    beat. It takes the least time.

    Args:
        source: "references", the data's column `reference`, else `completion` (a text, or a message as in TRL's rows);
            "best_of_n", the best of every `group_size` completions of a prompt by the environment's reward; None for
            references if the data has them, else the best of n.
        where: values that columns of a row must have for its reference to count, such as `{"label": 1}`.
        group_size: n of the best of n. References have no groups.
        on_long_completion: what happens to a reference longer than the environment's `max_new_tokens`, as in `rlhf
            sft`. "cut" learns its first tokens and no EOS, as an episode of that length ends. "drop" leaves it out,
            so that the agent learns short references alone. "error" refuses it. The log says how many.

    Defaults: `learning_rate=2e-4`, `batch_size=512`, `group_size=4`, `source=None`, `where=None`,
    `on_long_completion="cut"`. All other arguments and defaults are as in `PolicyGradient`.

    Raises:
        ValueError: an argument is unknown, no references are left, `where` is given without references, a reference is
            no text, or `group_size` is below 2 with "best_of_n".
    """

    defaults = PolicyGradient.defaults | {"learning_rate": 2e-4}
    kl_argument = None
    has_rollouts = False
    unused = PolicyGradient.unused | NO_CRITIC | NO_DATA | NO_KL | {"ent_coef": 0.0, "engine": None}

    def __init__(
        self,
        policy: Any = None,
        env: Any = None,
        learning_rate: float | Schedule | None = None,
        batch_size: int | None = 512,
        group_size: int = 4,
        source: Literal["references", "best_of_n"] | None = None,
        where: dict[str, Any] | None = None,
        on_long_completion: Literal["cut", "drop", "error"] = "cut",
        **kwargs: Any,
    ) -> None:
        if source not in (None, "references", "best_of_n"):
            raise ValueError(f"source={source!r}: expected 'references' or 'best_of_n'")
        if on_long_completion not in ("cut", "drop", "error"):
            raise ValueError(f"on_long_completion={on_long_completion!r}: expected 'cut', 'drop' or 'error'")
        self.source, self.where, self.on_long_completion = source, where, on_long_completion
        self._order, self._next = np.zeros(0, np.int64), 0  # the references of this epoch, and how many are done
        super().__init__(policy, env, learning_rate, batch_size=batch_size, group_size=group_size, **kwargs)

    def _setup_model(self) -> None:
        batch = open_batch(self.env, 1)
        if self.source is None:
            self.source = "references" if _column(batch.rows) else "best_of_n"
            logger.info("sft: trains on %s", _column(batch.rows) or "the best of n")
        references = self.source == "references"
        if self.where and not references:
            raise ValueError(f"where={self.where} with source='best_of_n': it chooses among references; leave it out")
        if references:
            self.group_size = 1
        elif self.group_size < 2:
            raise ValueError(f"group_size={self.group_size} with source='best_of_n': take the best of at least 2")
        super()._setup_model()
        self._references, self._pictures = self._read(batch) if references else [], batch.pictures

    @property
    def data_checksum(self) -> str:
        """Return what is equal on all ranks that learn from the same references."""
        return fingerprint([Logged((episode,), 1.0, 1.0) for episode in self._references])

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_references", "_pictures"]

    def _read(self, batch: EpisodeBatch) -> list[Episode]:
        """Return the references as episodes. The log says how many are cut or left out."""
        column, where = _column(batch.rows), self.where or {}
        if column is None:
            raise ValueError(
                f"source='references': none of the {len(batch.rows)} rows of the data has a `reference` or a "
                "`completion`; take source='best_of_n'"
            )
        found, counts = [], Counter[str]()
        for index, row in enumerate(batch.rows):
            if any(row.get(key) != value for key, value in where.items()):
                continue
            empty = not row.get(column) or is_empty(row[column])
            ids, is_cut = ([], False) if empty else self._encode(batch, index, row, column)
            if not ids:
                counts[f"rows left out, because they have no {column}"] += 1
                continue
            counts[LOST_END if self.on_long_completion == "cut" else LEFT_OUT] += is_cut
            if is_cut and self.on_long_completion == "drop":
                continue
            batch.start(0, index)
            found.append(as_episode(batch.ids[0, : batch.lengths[0]], np.array(ids, np.int64), row=index))
        log_counts(logger, +counts, len(batch.rows), f"max_new_tokens={batch.max_new_tokens}")
        if not found:
            reason = f"fits into max_new_tokens={batch.max_new_tokens}" if counts[LEFT_OUT] else f"has {where}"
            raise ValueError(f"source='references': no `{column}` of the {len(batch.rows)} rows of the data {reason}")
        return found

    def _encode(self, batch: EpisodeBatch, index: int, row: dict[str, Any], column: str) -> tuple[list[int], bool]:
        """Return the tokens of a row's reference after the environment's prompt, and whether it lost its end."""
        place = f"row {index} of the data"
        try:
            pair = {"prompt": row["prompt"], column: row[column]}
            prompt, answer = read_completion(pair, column)
            head, text = batch.chat.texts(prompt, answer)
            check_text(text, f"{column!r}")
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        if head != batch.chat.text(row["prompt"]):
            raise ValueError(f"{place}: {column!r} has more than the answer to its prompt: put earlier turns there")
        short = is_cut_short(row)
        text = cut_end(text, answer) if short else text
        added = short and bool(batch.ends)  # an EOS is put behind the text, or stands for the token beyond the room
        ids, is_cut = encode_completion(batch.tokenizer, text, batch.max_new_tokens + added, batch.ends)
        ids = ids[:-1] if added else ids
        if is_cut and self.on_long_completion == "error":
            raise ValueError(
                f"{place}: {column!r} has more than max_new_tokens={batch.max_new_tokens} tokens with its EOS: raise "
                "that, shorten it, or cut or drop such rows"
            )
        return ids, is_cut

    def collect_rollouts(self, env: Any, callback: Any, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        """Sample completions as SB3 does, or take as many tokens of references."""
        if self.source != "references":
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        callback.on_rollout_start()
        size = n_rollout_steps * env.num_envs
        taken = take_rows(self, self._references, lambda episode: len(episode.actions), size)
        return hand_out(self, taken, callback, False, self._pictures)

    def _advantages(self, buffer: EpisodeRolloutBuffer) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights of the tokens, 1 to be learned and 0 for the others, and the scores."""
        if self.source == "references":
            return np.ones_like(buffer.rewards), buffer.rewards
        groups = buffer.scores.reshape(-1, self.group_size)
        best = np.eye(self.group_size)[groups.argmax(axis=1)].reshape(-1)
        return spread(best, buffer), spread(buffer.scores, buffer)

    def train(self) -> None:
        """Update the policy: with references as the plain model decodes, at temperature 1, without top-k and top-p."""
        with as_the_model(self.policy) if self.source == "references" else nullcontext():
            super().train()

    def _loss(self, samples: EpisodeSamples) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        _, log_prob, entropy = self.policy.evaluate_actions(samples.observations, samples.actions)
        loss = -(samples.advantages * log_prob).sum() / samples.advantages.sum()
        return loss, {"cross_entropy": loss, "entropy_loss": -entropy.mean()}


def _column(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the column that has the references, None if there are none."""
    return next((name for name in ("reference", "completion") if any(row.get(name) for row in rows)), None)
