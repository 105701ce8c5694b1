"""Score the pairs in a feedback store by a policy, from the judgements that are in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rlhf_envs.datasets.messages import as_text, kept_prompt

from .next_item import POLICIES, Policy, embed_texts, score_pairs

if TYPE_CHECKING:
    from rlhf_envs.feedback.records import Item, Judgement
    from rlhf_envs.feedback.store.store import FeedbackStore

__all__ = ["FIRST_JUDGEMENTS", "Prioritised", "Prioritiser"]

FIRST_JUDGEMENTS = 20  # judged pairs, before which items stay in random order


class Prioritised(NamedTuple):
    """Hold what a scoring did."""

    scored: int  # pairs in the queue
    judged: int  # pairs that the model learned from
    others: int  # items in the queue that are no pairs, and stay in random order


class Prioritiser:
    """Score a store's pairs again and again. Texts are embedded once and their embeddings kept in memory.

    Args:
        model: whose frozen embeddings the model of the judgements stands on: "tiny-reward", "minilm", or a folder.
        seed: seeds the bootstraps.
    """

    def __init__(self, model: str = "tiny-reward", seed: int = 0) -> None:
        self.model, self.seed = model, seed
        self._embeddings: dict[str, np.ndarray] = {}

    def __call__(self, store: FeedbackStore, policy: str | None = None) -> Prioritised:
        """Write a score for every pair in the queue.

        Args:
            store: is written to. Claims go on meanwhile.
            policy: one of `POLICIES`; by default the setting `next_item`.

        Raises:
            ValueError: the policy needs no scores, or there is no such one.
        """
        policy = policy or store.settings.next_item
        if policy not in POLICIES:
            raise ValueError(
                f"next_item = {policy!r} needs no scores: scores are for {', '.join(POLICIES)} (rlhf feedback settings)"
            )
        queue = store.queue()
        pairs = [item for item in queue if item.kind == "pairwise" and item.gold is None]
        judged, answers = self._judged(store)
        if len(answers) < FIRST_JUDGEMENTS:
            store.set_scores({})
            return Prioritised(0, len(answers), len(queue) - len(pairs))
        features = self._features([*pairs, *judged])
        scores = score_pairs(_known(policy), features[: len(pairs)], features[len(pairs) :], answers, seed=self.seed)
        store.set_scores({item.id: float(score) for item, score in zip(pairs, scores, strict=True)})
        return Prioritised(len(pairs), len(answers), len(queue) - len(pairs))

    def _judged(self, store: FeedbackStore) -> tuple[list[Item], np.ndarray]:
        """Return the pairs that were judged, and how often the first text won (a tie is one half)."""
        votes: dict[int, list[float]] = defaultdict(list)
        for judgement in store.judgements():
            if judgement.kind == "pairwise":
                votes[judgement.item_id].append(_vote(judgement))
        items = [item for item in store.items(sorted(votes)) if item.gold is None]
        return items, np.array([float(np.mean(votes[item.id])) for item in items])

    def _features(self, pairs: Sequence[Item]) -> np.ndarray:
        """Return the embedding of each first text less that of the second, (pairs, d)."""
        texts = [[_text(item, completion) for completion in item.completions] for item in pairs]
        new = list(dict.fromkeys(text for both in texts for text in both if text not in self._embeddings))
        if new:
            self._embeddings.update(zip(new, embed_texts(new, self.model), strict=True))
        return np.stack([self._embeddings[one] - self._embeddings[other] for one, other in texts])


def _known(policy: str) -> Policy:
    return next(name for name in POLICIES if name == policy)


def _vote(judgement: Judgement) -> float:
    assert judgement.value is not None
    choice = judgement.value["choice"]
    return 0.5 if choice is None else float(choice == 0)


def _text(item: Item, completion: str) -> str:
    return "".join(as_text(kept_prompt(item.prompt, item.meta), completion))
