"""Keep what people say of completions, and a sample of completions for review, in the feedback store."""

from __future__ import annotations

import hashlib
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_envs.datasets.messages import shown
from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.kinds import check_value
from rlhf_envs.feedback.masking import PrivateTexts
from rlhf_envs.feedback.store.restoring import PastJudgement, restore

from .errors import Refusal
from .keys import ApiKey
from .requests import ChatRequest, CompletionRequest, Request

__all__ = ["Completion", "Desk", "Recent", "annotator_of", "completion_of"]

SOURCE = "rlhf serve"
OVERHEAD = 1000  # bytes that a completion takes beside its texts
ROLES = ("system", "developer", "user", "assistant")


@dataclass
class Completion:
    """Hold a completion that people may say something of.

    Attributes:
        id: the completion's id.
        prompt: what it continues; of a conversation as people read it.
        messages: the conversation; None for a text.
        texts: one text per choice.
        key: the key that it was written for.
        consent: who agreed that it may be kept for review, "request" or "key"; None if nobody did.
        items: the ids of its items in the store, by kind and choice.
    """

    id: str
    prompt: str
    messages: list[dict[str, str]] | None
    texts: list[str]
    key: ApiKey | None
    consent: str | None
    created: float = field(default_factory=time.time)
    items: dict[tuple[str, int], int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Return about how many bytes of memory it takes."""
        said = 0 if self.messages is None else sum(len(message["content"]) for message in self.messages)
        return OVERHEAD + 4 * (len(self.prompt) + said + sum(map(len, self.texts)))


def completion_of(request: Request, id: str, texts: Sequence[str], key: ApiKey | None) -> Completion | None:
    """Return what is kept of an answer. None if its prompt is no text and no conversation of texts."""
    consent = (
        "request" if request.store else "key" if request.store is None and key is not None and key.consent else None
    )
    if isinstance(request, CompletionRequest):
        if not isinstance(request.prompt, str) or request.suffix:
            return None
        written = [text.removeprefix(request.prompt) for text in texts] if request.echo else [*texts]
        return Completion(id, request.prompt, None, written, key, consent)
    assert isinstance(request, ChatRequest)
    if request.tools or not all(message.role in ROLES for message in request.messages):
        return None
    messages = [
        {
            "role": message.role,
            "content": message.content
            if isinstance(message.content, str)
            else "".join(part.text for part in message.content or []),
        }
        for message in request.messages
    ]
    return Completion(id, shown(messages), messages, [*texts], key, consent)


class Recent:
    """Keep the last completions in memory, within limits of their number, bytes and age. A restart forgets them."""

    def __init__(self, most: int = 10_000, most_bytes: int = 256 * 2**20, seconds: float = 24 * 3600.0) -> None:
        self.most, self.most_bytes, self.seconds = most, most_bytes, seconds
        self._held: OrderedDict[str, Completion] = OrderedDict()
        self._bytes = 0

    def add(self, completion: Completion) -> None:
        """Keep a completion; the oldest go where there is no room."""
        self._held[completion.id] = completion
        self._bytes += completion.size
        now = time.time()
        while self._held:
            oldest = next(iter(self._held.values()))
            fits = len(self._held) <= self.most and self._bytes <= self.most_bytes
            if fits and now - oldest.created <= self.seconds:
                return
            del self._held[oldest.id]
            self._bytes -= oldest.size

    def get(self, id: str, key: ApiKey | None) -> Completion | None:
        """Return a completion that was written for a key."""
        found = self._held.get(id)
        is_old = found is not None and time.time() - found.created > self.seconds
        whose = found is not None and (None if found.key is None else found.key.id) == (None if key is None else key.id)
        return found if whose and not is_old else None


class Desk:
    """Put what people say of completions into a feedback store, and a sample of completions for review.

    Args:
        store: stays open when the gateway ends, since it belongs to the caller.
        policy: what wrote the completions, such as `ServedModel.version`.
        share: the share of completions that goes into the review queue, among the completions that may be kept.
        mask: replaces what is private in a text before it is stored; None stores texts as they are.
        seed: seeds the sample.
    """

    def __init__(
        self,
        store: FeedbackStore,
        policy: str,
        share: float = 0.0,
        mask: Callable[[str], str] | None = None,
        seed: int | None = None,
    ) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share must be from 0 to 1, got {share}")
        self.store, self.policy, self.share, self.mask = store, policy, share, mask
        self.recent = Recent()
        self._random = random.SystemRandom() if seed is None else random.Random(seed)

    def is_sampled(self, completion: Completion) -> bool:
        """Return whether a completion goes into the review queue, by chance. Only those that may be kept do."""
        return completion.consent is not None and bool(completion.texts) and self._random.random() < self.share

    def review(self, completion: Completion, other: str | None) -> int:
        """Put a completion into the review queue: beside another one of the same prompt, or alone, for thumbs.

        Returns:
            The item's id.
        """
        text, stored = completion.texts[0], PrivateTexts(self.store.settings).text
        # As they are stored: masked, both may be the same.
        compared = other is not None and stored(self._masked(other)) != stored(self._masked(text))
        texts = (text, other) if compared and other is not None else (text,)
        kind = "pairwise" if compared else "thumbs"
        (item_id,) = self.store.add_items([self._item(kind, completion, texts, str(completion.consent))])
        return item_id

    def take(
        self, completion: Completion, choice: int, given: dict[str, dict[str, Any]], who: str, comment: str
    ) -> None:
        """Store what somebody says of a completion. It returns once that is on the disk.

        Args:
            completion: what it is about.
            choice: which of its choices.
            given: maps the kinds "thumbs" and "correction" to answers, see `rlhf_envs.feedback.kinds`.
            who: the annotator's name.
            comment: their words.

        Raises:
            Refusal: they have said something else of it before, or an admin of the store has their name (409).
        """
        try:
            self.store.add_annotator(who)
        except ValueError as error:
            message = f"an account that is no annotator's has the name {who!r} in the store: use a key of another name"
            raise Refusal(409, "annotator_taken", message) from error
        settings = self.store.settings
        texts = PrivateTexts(settings)  # `restore` stores what it is given, whatever the project's settings ask for
        comment = texts.text(self._masked(comment))
        for kind, value in given.items():
            if "text" in value:
                value = {**value, "text": texts.text(self._masked(value["text"]))}
            value = check_value(kind, value, 1, settings) or {}
            item_id = completion.items.get((kind, choice))
            if item_id is None:
                (item_id,) = self.store.add_items(
                    [self._item(kind, completion, (completion.texts[choice],), "feedback")]
                )
                completion.items[kind, choice] = item_id
            key = f"{completion.id}:{choice}:{kind}:{_digest(who)}"  # no name: `forget_person` leaves it
            past = PastJudgement(who, value, comment=comment, sides=(0,), key=key)
            if restore(self.store, [(item_id, past)], {}):
                self._check_same(item_id, who, value)

    def _check_same(self, item_id: int, who: str, value: dict[str, Any]) -> None:
        """Raise Refusal unless somebody's answer is the one that they gave before: a retry is none too many."""
        before = [entry for entry in self.store.judgements(item_ids=[item_id]) if entry.annotator == who]
        if not before or before[-1].value != value:
            raise Refusal(409, "feedback_given", f"{who} has said something else of this completion before")

    def _item(self, kind: str, completion: Completion, texts: tuple[str, ...], consent: str) -> NewItem:
        meta: dict[str, Any] = {"completion": completion.id, "consent": consent}
        if completion.key is not None:
            meta["key"] = completion.key.id  # not its name, which may be a person's who is forgotten later
        if completion.messages is not None:
            meta["messages"] = [{**m, "content": self._masked(m["content"])} for m in completion.messages]
        return NewItem(
            kind,
            self._masked(completion.prompt),
            tuple(map(self._masked, texts)),
            source=SOURCE,
            policy=self.policy,
            meta=meta,
            overlap=1,
            max_overlap=None,
        )

    def _masked(self, text: str) -> str:
        """Return a text as it is stored: masked, and without the zeros that PostgreSQL cannot hold."""
        return (text if self.mask is None else self.mask(text)).replace("\0", "\ufffd")


def annotator_of(key: ApiKey | None, user: str | None) -> str:
    """Return the annotator's name of a client's user. Who the user is stands nowhere: a digest tells them apart."""
    client = "anonymous" if key is None else key.name
    if user is None:
        return client
    digest = _digest(f"{client}\0{user}")
    return f"{client}/{digest}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
