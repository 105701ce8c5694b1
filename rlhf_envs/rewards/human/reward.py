"""Take people's ratings as the reward: finished episodes go to the feedback store and get their scores from there.

In mode "sync" an episode waits for a person. In mode "async" a reward model answers at once, people rate what they can,
and the model is refitted when enough ratings have come.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from rlhf_envs.datasets.messages import Prompt, said, shown
from rlhf_envs.datasets.splits import log_once
from rlhf_envs.feedback.records import NewItem
from rlhf_envs.rewards.base import Reward, evaluate_reward
from rlhf_envs.rewards.guard import RewardError
from rlhf_envs.rewards.human.labels import (
    Criterion,
    check_criterion,
    labels_of,
    name_criterion,
    rating_rows,
    read_weights,
)
from rlhf_envs.rewards.human.waiting import Fitting, Refit, Waiting, describe_awaited
from rlhf_envs.rewards.human.weighing import weigh_rows, weighed_mean, weights_of
from rlhf_envs.rewards.registry import get_reward
from rlhf_envs.rewards.scores import Columns
from rlhf_envs.rewards.shaping import whole_number
from rlhf_envs.rewards.state import is_frozen

if TYPE_CHECKING:
    from rlhf_envs.feedback import FeedbackStore

__all__ = ["HumanReward"]

logger = logging.getLogger(__name__)

Mode = Literal["sync", "async"]
Kind = Literal["rating", "thumbs", "questions"]
OnTimeout = Literal["fallback", "mean", "error"]
DEFAULT_STORE = Path("feedback.db")


class HumanReward(Reward):
    """Ask people what they think of a completion; from -1 to 1, with the middle of the scale at 0, thumbs at -1 and 1.

    All completions of a reward call go into the queue together. A text that was asked before (by this `source`) is not
    asked again. So a run that was killed while it waited, and goes on from its checkpoint, finds the ratings that came.
    Evaluations (`frozen_rewards`) ask nobody: the fallback scores them, so that the measure stays the same.

    The scores of a model in people's place, the fallback or the refitted one, go through tanh: a reward model's scores
    have standard deviation 1 and no bounds, and would drown people's. Clipping would make all scores beyond one
    deviation equal; tanh keeps their order. A fallback that already scores from -1 to 1 ends within -0.76 to 0.76.

    A skipped completion is waited for until `overlap` others have rated it, or until everybody (at least `overlap`
    people) has rated or skipped it. "Everybody" are the accounts that are switched on and have answered or skipped
    anything in this store: not an admin who only looks, but also somebody who went home, or whose answers were
    imported. A warning names who is waited for after a skip. The wait ends when they have answered, when their accounts
    are switched off (`rlhf feedback account NAME off`), or after `timeout`.

    Args:
        store: the feedback store: a path, a URL or an open `FeedbackStore`. By default feedback.db in the working
            directory, and a warning says so. With None nobody is asked, and the fallback answers.
        mode: "sync" waits for people, "async" does not.
        fallback: what answers where people do not (see above): a registered reward's name, or a reward model's folder.
        timeout: seconds that a reward call waits for people; None waits for ever. Only in "sync". Do not give the
            environment a `reward_timeout` as well.
        on_timeout: what happens then to completions without an answer: the "fallback" scores them, they get the "mean"
            of the others in the call (0 without any), or the run stops with an "error" (and can go on, since they stay
            in the queue). The first two take them out of the queue.
        poll: seconds between two looks into the store.
        overlap: people who judge each completion; the reward is their mean, weighed by `weigh`.
        kind: "rating", on the scale of the store's settings, "thumbs", or "questions", which asks nothing but the
            project's own questions and needs a `criterion`.
        refit_every: new ratings between two refits of the model. Only in "async", and with `refit` set.
        queue_limit: in "async", the largest number of completions that wait for people; no more are added then.
        source: the `source` that marks this reward's items in the store.
        criterion: the name of one of the project's own questions, whose answers are the reward in place of the kind's:
            a "rating" on its own scale, or "labels" of two, the first of which is 1 and the second -1. Who leaves an
            optional one unanswered has answered the item, and where nobody answers it the completion has no answer.
            Or several with weights, `{"helpful": 1, "kind": 0.5}`: the reward is the mean of their answers by the size
            of the weights, of one below 0 turned round, over who has answered all of them.
        weigh: whether labels count by how well their annotator's go with those of others about the same completions,
            in the mean and in refits (see `rlhf_envs.feedback.reliability`). It changes nothing for who shares fewer
            than 10 completions with others, and so nothing where each is judged by one person.

    Attributes:
        refit: makes a reward function of all rating rows (`{"prompt", "completion", "label", "annotator", "item_id"}`
            and with `weigh` "weight", one per judgement, labels from -1 to 1), or returns None to keep the model, or a
            `Fitting`, whose result is one of the two. Without it nothing is refitted.
        swaps_by_itself: whether a reward call swaps in what a `Fitting` has fitted. `agents.HumanFeedback` turns that
            off, and calls `take_refit` between rollouts.
        on_wait: called at every look into the store while people are waited for. False ends the wait, and missing
            completions score 0: for a run that gives the rollout up.
        waited: seconds waited so far.
        missed: completions so far that people did not answer in time, or all skipped.
        unasked: completions so far that did not fit into the queue.
        refits: refits so far.

    Raises:
        ValueError: an argument is wrong.
    """

    name = "human"
    reads_messages = True

    def __init__(
        self,
        store: str | Path | FeedbackStore | None = DEFAULT_STORE,
        mode: Mode = "sync",
        fallback: str = "tiny-reward",
        timeout: float | None = None,
        on_timeout: OnTimeout = "fallback",
        poll: float = 0.5,
        overlap: int = 1,
        kind: Kind = "rating",
        refit_every: int = 64,
        queue_limit: int = 512,
        source: str = "environment",
        criterion: Criterion | None = None,
        weigh: bool = True,
    ) -> None:
        if not isinstance(weigh, bool):
            raise ValueError(f"the human reward's weigh is {weigh!r}: expected True or False")
        for name, value, choices in (("mode", mode, Mode), ("kind", kind, Kind), ("on_timeout", on_timeout, OnTimeout)):
            if value not in get_args(choices):
                names = ", ".join(get_args(choices))
                raise ValueError(f"the human reward's {name} is {value!r}: choose {names}")
        for name, number in (("overlap", overlap), ("refit_every", refit_every), ("queue_limit", queue_limit)):
            whole_number(f"the human reward's {name}", number)
        for name, seconds in (("timeout", math.inf if timeout is None else timeout), ("poll", poll)):
            if isinstance(seconds, bool) or not seconds > 0:
                raise ValueError(f"the human reward's {name} must be seconds above 0, got {seconds!r}")
        if criterion is not None:
            read_weights(criterion)
        if kind == "questions" and criterion is None:
            raise ValueError(
                "the human reward's kind 'questions' has no question of its own: name one of the project's by criterion"
            )
        if store is DEFAULT_STORE:
            log_once(
                logging.WARNING,
                f"the human reward is given no store: people are asked through {store.absolute()}; name another with "
                "reward_kwargs={'store': ...}, or None to ask nobody",
            )
        self.store, self.mode, self.kind, self.source = store, mode, kind, source
        self.criterion, self.weigh = criterion, weigh
        self.timeout, self.on_timeout, self.poll = timeout, on_timeout, poll
        self.overlap, self.refit_every, self.queue_limit = overlap, refit_every, queue_limit
        self.fallback = get_reward(fallback)  # now, not when the first person is late
        self.model = self.fallback
        self.refit: Refit | None = None
        self.on_wait: Callable[[Waiting], bool | None] | None = None
        self.waited, self.missed, self.unasked, self.refits = 0.0, 0, 0, 0
        self._opened: FeedbackStore | None = None
        self._asked: dict[tuple[str, str], int] = {}  # the item of a text
        self.swaps_by_itself = True
        self._labels = 0  # at the last refit
        self._fitting: Fitting | None = None
        self._workers: set[str] = set()  # who has answered or skipped anything in the store
        self._last_seen = 0  # the last judgement that `_workers` is made of

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], **columns: list[Any]) -> np.ndarray:
        """Return people's scores, (n,) float64, or in "async" the scores of the model fitted to people's ratings.

        Raises:
            RewardError: `timeout` has passed and `on_timeout` is "error".
            StoreError: the store cannot be used.
        """
        if self.store is None or is_frozen():
            return _scores_of(self.fallback, prompts, completions, columns)
        if self.mode == "async":
            self._refit_if_due()
            self._ask_some(prompts, completions)
            return _scores_of(self.model, prompts, completions, columns)
        return self._wait_for_people(prompts, completions, columns)

    def open(self) -> FeedbackStore:
        """Return the store, and open it when it is first needed.

        Raises:
            StoreError: the store cannot be opened.
            ValueError: this reward has no store, or the store does not ask its criterion.
        """
        if self._opened is None:
            from rlhf_envs.feedback import FeedbackStore

            if self.store is None:
                raise ValueError("this human reward has no store: nobody is asked")
            store = self.store if isinstance(self.store, FeedbackStore) else FeedbackStore(self.store)
            if self.criterion is not None:
                check_criterion(store, self.criterion, self.kind)
            self._opened, self._asked = store, self._asked_before(store)
        return self._opened

    def take_criterion(self, criterion: Criterion) -> None:
        """Let the answers to one of the project's own questions, or to several, be the reward, see `criterion`.

        Raises:
            ValueError: this reward has another criterion, or the store does not ask this one.
        """
        if self.criterion not in (None, criterion):
            has, given = name_criterion(self.criterion or ""), name_criterion(criterion)
            raise ValueError(f"the human reward has the criterion {has} already, so not {given}")
        if self.criterion is None:
            if self._opened is not None and self._opened is not self.store:
                self._opened.close()
            self.criterion, self._opened = criterion, None
        self.open()

    def _asked_before(self, store: FeedbackStore) -> dict[tuple[str, str], int]:
        """Return this reward's items that have, or can still get, an answer to what it asks, by their texts."""
        ours = [
            item
            for item in store.items()
            if (item.kind, item.source) == (self.kind, self.source) and item.overlap >= self.overlap
        ]
        closed: set[int] = set()
        if self.criterion is not None:
            judgements = store.judgements(item_ids=[item.id for item in ours])
            labels = labels_of(store, ours, judgements, self.criterion)
            given = Counter(entry.item_id for entry in judgements)
            answered = {entry.item_id for entry in judgements if entry.id in labels}
            closed = {item.id for item in ours if given[item.id] >= item.overlap and item.id not in answered}
        return {(item.prompt, item.completions[0]): item.id for item in ours if item.id not in closed}

    def labels(self) -> list[dict[str, Any]]:
        """Return all judgements of this kind in the store as rating rows, oldest first, without gold questions.

        With a `criterion`, those that answer it.
        """
        return rating_rows(self.open(), self.kind, self.criterion)

    def metrics(self) -> dict[str, float]:
        """Return what TensorBoard shows: seconds waited, the length of the queue, judgements, and counts."""
        progress = self.open().progress()
        return {
            "human_wait_s": self.waited,
            "human_queue": progress.items - progress.finished,
            "human_labels": progress.judgements,
            "human_missed": self.missed,
            "human_unasked": self.unasked,
            "human_refits": self.refits,
        }

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open store out: a copy in another process opens it anew."""
        return {**self.__dict__, "_opened": None, "_asked": {}, "on_wait": None, "_fitting": None}

    def _wait_for_people(
        self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns
    ) -> np.ndarray:
        ids = self._ask(prompts, completions)
        began, given_up, awaited = time.monotonic(), False, ""
        while True:
            answers, missing, now_awaited = self._look(ids)
            if now_awaited not in ("", awaited):
                logger.warning("%s", now_awaited)
            awaited = now_awaited
            waited = time.monotonic() - began
            late = self.timeout is not None and waited >= self.timeout
            if not missing or late:
                break
            given_up = self.on_wait is not None and self.on_wait(Waiting(waited, len(ids), len(missing))) is False
            if given_up:
                break
            time.sleep(self.poll if self.timeout is None else min(self.poll, self.timeout - waited))
        self.waited += waited
        compares = self.weigh and any(len(labels) > 1 for labels in answers.values())
        weights = weights_of(self.labels()) if compares else {}
        scores = np.array([weighed_mean(answers[i], weights) if i in answers else np.nan for i in ids])
        if given_up or not np.isnan(scores).any():
            return np.nan_to_num(scores)
        if late and self.on_timeout == "error":
            raise RewardError(
                f"people judged {len(ids) - len(missing)} of {len(ids)} completions within {self.timeout:g} s; the "
                f"rest stay in {self.open().url}: serve it (rlhf feedback serve), then go on with the run"
                + (f"; {awaited}" if awaited else "")
            )
        self._withdraw({item_id for item_id, score in zip(ids, scores, strict=True) if np.isnan(score)})
        return self._fill_in(scores, {"prompts": prompts, "completions": completions, **columns})

    def _withdraw(self, ids: set[int]) -> None:
        """Take items out of the queue. The same texts are asked anew if they come again."""
        self.open().withdraw(sorted(ids))
        self._asked = {text: item_id for text, item_id in self._asked.items() if item_id not in ids}

    def _fill_in(self, scores: np.ndarray, rows: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """Give the completions without an answer, whose score is NaN, the mean of the others or the fallback's."""
        unanswered = np.isnan(scores)
        n = int(unanswered.sum())
        self.missed += n
        instead = "the mean of the others" if self.on_timeout == "mean" else "the fallback"
        logger.warning("people did not rate %d of %d completions: their score is %s", n, len(scores), instead)
        if self.on_timeout == "mean":
            scores[unanswered] = np.nan_to_num(scores[~unanswered].mean()) if not unanswered.all() else 0.0
        else:
            missed = {name: [rows[name][i] for i in np.flatnonzero(unanswered).tolist()] for name in rows}
            scores[unanswered] = _scores_of(self.fallback, missed.pop("prompts"), missed.pop("completions"), missed)
        return scores

    def _look(self, ids: Sequence[int]) -> tuple[dict[int, list[tuple[str, float]]], set[int], str]:
        """Return labels and their givers by item, the items that need more and can get them, and who is awaited."""
        store = self.open()
        answers: dict[int, list[tuple[str, float]]] = defaultdict(list)
        asked: dict[int, set[str]] = defaultdict(set)  # who has rated or skipped an item
        given: Counter[int] = Counter()  # also those that leave the criterion out: nobody is asked in their place
        for judgement in store.judgements(after_id=self._last_seen, include_skips=True):
            self._workers.add(judgement.annotator)
            self._last_seen = judgement.id
        able = self._workers & {person.name for person in store.annotators() if person.active}
        ours = sorted(set(ids))
        judgements = store.judgements(item_ids=ours, include_skips=True)
        labels = labels_of(store, store.items(ours) if self.criterion is not None else [], judgements, self.criterion)
        for judgement in judgements:
            asked[judgement.item_id].add(judgement.annotator)
            given[judgement.item_id] += judgement.value is not None
            if judgement.id in labels:
                answers[judgement.item_id].append((judgement.annotator, labels[judgement.id]))
        missing = {i for i in ids if given[i] < self.overlap and (able - asked[i] or len(asked[i]) < self.overlap)}
        skipped = {i for i in missing if len(asked[i]) > given[i]}
        awaited = describe_awaited(sorted(set().union(*(able - asked[i] for i in skipped))), len(skipped))
        return {i: labels for i, labels in answers.items() if labels}, missing, awaited

    def _ask(self, prompts: Sequence[Prompt], completions: Sequence[Prompt]) -> list[int]:
        """Return the items of the texts, after adding new texts to the queue."""
        store = self.open()
        texts = list(zip(map(shown, prompts), map(said, completions), strict=True))
        metas = [_meta(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        new = {text: meta for text, meta in zip(texts, metas, strict=True) if text not in self._asked}
        options: dict[str, Any] = {"source": self.source, "overlap": self.overlap, "max_overlap": self.overlap}
        items = [NewItem(self.kind, p, (c,), meta=meta, **options) for (p, c), meta in new.items()]
        if items:
            if not self._asked:
                logger.warning("completions wait for people: rlhf feedback serve --store %s", store.url)
            self._asked.update(zip(new, store.add_items(items), strict=True))
        return [self._asked[text] for text in texts]

    def _ask_some(self, prompts: Sequence[Prompt], completions: Sequence[Prompt]) -> None:
        progress = self.open().progress()
        room = max(0, self.queue_limit - (progress.items - progress.finished))
        self._ask(prompts[:room], completions[:room])
        self.unasked += max(0, len(prompts) - room)

    def take_refit(self) -> None:
        """Swap in the model of a refit that runs beside the training, if it is fitted."""
        if self._fitting is not None and self._fitting.done():
            fitting, self._fitting = self._fitting, None
            self._swap_in(fitting.result())

    def set_model(self, model: Callable[..., Any], labels: int) -> None:
        """Let a model answer that was fitted to the first `labels` judgements: the next refit is due after more."""
        self.model, self._labels = model, labels

    def _refit_if_due(self) -> None:
        if self.swaps_by_itself:
            self.take_refit()
        if self.refit is None or self._fitting is not None:
            return
        if self.open().progress().judgements - self._labels < self.refit_every:
            return
        rows = self.labels()
        if len(rows) - self._labels < self.refit_every:  # some were of another kind
            return
        self._labels = len(rows)
        refitted = self.refit(weigh_rows(rows) if self.weigh else rows)
        if isinstance(refitted, Fitting):
            self._fitting = refitted
        else:
            self._swap_in(refitted)

    def _swap_in(self, model: Callable[..., Any] | None) -> None:
        if model is not None:
            self.model, self.refits = model, self.refits + 1


def _meta(prompt: Prompt, completion: Prompt) -> dict[str, Any]:
    """Return the meta of an item, with the messages and turns that people are shown."""
    messages = {} if isinstance(prompt, str) else {"messages": prompt}
    return messages if isinstance(completion, str) or len(completion) < 2 else {**messages, "turns": [completion]}


def _scores_of(
    reward: Callable[..., Any], prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns
) -> np.ndarray:
    """Return a model's scores within people's bounds, (n,) float64 from -1 to 1."""
    scores: np.ndarray = np.tanh(evaluate_reward(reward, prompts, completions, columns)[0])
    return scores
