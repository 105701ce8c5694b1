"""Watch what is served: topics, drift, and the scores of a sample. Requests only put their answer into a queue.

One thread reads answers and searches their texts; when a window is full it is tested against the reference. Another
thread scores a sample, so that a scorer that is slow, or hangs, holds up nothing but itself. Both queues are bounded:
what finds no room is counted and not watched, or watched without a score. Texts are forgotten once they are read.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_envs.datasets.messages import Prompt
from rlhf_envs.rewards.base import evaluate_reward

from ..evaluation.refusals import is_refusal
from .alerts import Alerts
from .drift import Drift, DriftTest, Row, Window, hash_words
from .served import Completion
from .telemetry import Telemetry, log_json
from .topics import Topics

__all__ = ["Tested", "Watch", "WatchSettings"]

READING, SCORING = 2000, 64  # answers that may wait to be read, and to be scored
MOST_CHARACTERS = 32 * 2**20  # of all texts that wait to be read
BATCH = 16
SHOWN = 200


@dataclass(frozen=True)
class WatchSettings:
    """Hold how traffic is watched.

    Attributes:
        share: share of the answers that are scored.
        reference: answers in the reference, the first ones unless `file` has it.
        window: answers in a window.
        false_alarms: chance of a false alarm in any of `windows` successive windows, see `DriftTest`.
        file: where the reference is kept. It is read if it is there, and else written once it is full.
    """

    share: float = 0.1
    reference: int = 1000
    window: int = 200
    false_alarms: float = 0.01
    windows: int = 1
    file: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"the share that is scored must be from 0 to 1, got {self.share}")
        if min(self.reference, self.window) < 20:
            raise ValueError(f"reference={self.reference} and window={self.window} must be at least 20 answers")


@dataclass(frozen=True)
class Tested:
    """Hold a window that was tested, and when."""

    ended: datetime
    answers: int
    drift: Drift


class Watch:
    """Watch answers, from `start` to `stop`.

    Args:
        settings: how.
        telemetry: the metrics.
        alerts: where alerts go.
        scorers: maps names to what scores the sample, such as a reward model and a judge.
        topics: what texts are searched for.
        seed: seeds the sample and the tests.

    Raises:
        ValueError: the file of the reference is damaged, has other features, or no folder to be in.
    """

    def __init__(
        self,
        settings: WatchSettings,
        telemetry: Telemetry,
        alerts: Alerts,
        scorers: Mapping[str, Callable[..., Any]] | None = None,
        topics: Topics | None = None,
        seed: int | None = None,
    ) -> None:
        self.settings, self.telemetry, self.alerts, self.topics = settings, telemetry, alerts, topics
        self.scorers = dict(scorers or {})
        scores = [f"score {name}" for name in self.scorers]
        self.features = ["prompt length", "completion length", "refusal", *scores]
        self.history: deque[Tested] = deque(maxlen=SHOWN)
        self.found: Counter[str] = Counter()  # answers with a topic
        self.rows: list[Row] = []
        self._seed, self._random = seed, random.Random(seed)
        self._texts: queue.Queue[Completion | None] = queue.Queue(READING)
        self._sample: queue.Queue[tuple[Completion, dict[str, float]] | None] = queue.Queue(SCORING)
        self._waiting, self._lock, self._full = 0, threading.Lock(), threading.Lock()
        self._failing: set[str] = set()
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True)
            for name, run in (("watch", self._read), ("watch-scores", self._score))
        ]
        self.test: DriftTest | None = None
        # Complain at the start, not after a thousand answers.
        DriftTest(Window(np.zeros((20, len(hash_words(""))))), settings.false_alarms, settings.windows)
        if settings.file is not None and not settings.file.parent.is_dir():
            raise ValueError(f"{settings.file}: there is no folder {settings.file.parent} for the reference")
        if settings.file is not None and settings.file.exists():
            self.test = self._load(settings.file)

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """Read what waits, for so many seconds at most, and end."""
        ends = time.monotonic() + seconds
        queues: list[queue.Queue[Any]] = [self._texts, self._sample]
        for waiting, thread in zip(queues, self._threads, strict=True):
            try:
                waiting.put(None, timeout=max(0.0, ends - time.monotonic()))
            except queue.Full:
                continue  # its thread hangs; it ends with the process
            thread.join(max(0.0, ends - time.monotonic()))

    def see(self, completion: Completion) -> None:
        """Take an answer. It returns at once, also where there is no room for it."""
        size = len(completion.prompt) + sum(map(len, completion.texts))
        with self._lock:
            fits = self._waiting + size <= MOST_CHARACTERS
            self._waiting += size if fits else 0
        try:
            if not fits:
                raise queue.Full
            self._texts.put_nowait(completion)
        except queue.Full:
            with self._lock:
                self._waiting -= size if fits else 0
            self.telemetry.dropped.labels("watch").inc()

    def _load(self, path: Path) -> DriftTest:
        window = Window.load(path)
        if sorted(window.values) != sorted(self.features):
            raise ValueError(
                f"{path}: the reference has {', '.join(window.values)}, and the server watches "
                f"{', '.join(self.features)}: give the same scorers, or another file"
            )
        return self._make_test(window)

    def _make_test(self, reference: Window) -> DriftTest:
        settings = self.settings
        return DriftTest(reference, settings.false_alarms, settings.windows, seed=self._seed)

    def _read(self) -> None:
        while (completion := self._texts.get()) is not None:
            with self._lock:
                self._waiting -= len(completion.prompt) + sum(map(len, completion.texts))
            try:
                self._look(completion)
            except Exception as error:  # the next answer is watched again
                log_json("watch", logging.ERROR, completion=completion.id, problem=type(error).__name__)

    def _look(self, completion: Completion) -> None:
        """Search an answer's texts, and measure it."""
        self.telemetry.watched.inc()
        if self.topics is not None:
            self._search(self.topics, completion)
        text = completion.texts[0] if completion.texts else ""
        refused = is_refusal(text)
        self.telemetry.refused.inc(refused)
        values = {
            "prompt length": float(len(completion.prompt)),
            "completion length": float(len(text)),
            "refusal": float(refused),
        }
        if self.scorers and text and self._random.random() < self.settings.share:
            try:
                self._sample.put_nowait((completion, values))
                return  # it counts once it is scored
            except queue.Full:
                self.telemetry.dropped.labels("score").inc()
        self._add(completion, values)

    def _search(self, topics: Topics, completion: Completion) -> None:
        places = {"prompt": completion.prompt, "completion": "\n".join(completion.texts)}
        for place, text in places.items():
            found = topics.find(text)
            for topic in sorted({topic for topic, _ in found}):
                self.found[topic] += 1
                self.telemetry.topics.labels(topic).inc()
                terms = sorted(term for name, term in found if name == topic)[:10]
                message = f"{topic} in a {place}: {', '.join(terms)}"
                fields = {"topic": topic, "where": place, "terms": terms, "completion": completion.id}
                self.alerts.add("topic", topic, message, quiet=True, **fields)

    def _score(self) -> None:
        ended = False
        while not ended:
            batch = [self._sample.get()]
            while len(batch) < BATCH and not self._sample.empty():
                batch.append(self._sample.get())
            ended = None in batch
            sampled = [one for one in batch if one is not None]
            for kind in (True, False):
                if same := [one for one in sampled if (one[0].messages is None) is kind]:
                    self._score_batch(same)

    def _score_batch(self, batch: Sequence[tuple[Completion, dict[str, float]]]) -> None:
        """Score answers, all of them texts or all conversations."""
        prompts: list[Prompt] = [c.prompt if c.messages is None else c.messages for c, _ in batch]
        said: list[Prompt] = [
            c.texts[0] if c.messages is None else [{"role": "assistant", "content": c.texts[0]}] for c, _ in batch
        ]
        for name, scorer in self.scorers.items():
            try:
                scores = evaluate_reward(scorer, prompts, said, {}).totals
            except Exception as error:  # whatever a scorer raises, that of a server as well
                self.telemetry.score_failures.labels(name).inc(len(batch))
                if name not in self._failing:
                    self._failing.add(name)
                    self.alerts.add("scorer", name, f"the scorer {name} fails: {type(error).__name__}", scorer=name)
                continue
            self._failing.discard(name)
            self.telemetry.scored.labels(name).inc(len(batch))
            for (_, values), score in zip(batch, scores, strict=True):
                values[f"score {name}"] = float(score)  # NaN of a reward that does not apply
        for completion, values in batch:
            self._add(completion, values)

    def _add(self, completion: Completion, values: dict[str, float]) -> None:
        """Put an answer into the window; a full one is tested, or becomes the reference."""
        row = Row(hash_words(completion.prompt), values)
        with self._full:
            self.rows.append(row)
            if len(self.rows) < (self.settings.reference if self.test is None else self.settings.window):
                return
            window, self.rows = Window.of(self.rows, self.features), []
            if self.test is None:
                self._begin(window)
                return
            self._test(self.test, window)

    def _begin(self, reference: Window) -> None:
        self.test = self._make_test(reference)
        log_json("reference", answers=len(reference))
        if self.settings.file is not None:
            try:
                reference.save(self.settings.file)
            except OSError as error:
                log_json("reference", logging.ERROR, problem=f"{self.settings.file}: {error.strerror}")

    def _test(self, test: DriftTest, window: Window) -> None:
        drift = test.test(window)
        self.telemetry.windows.inc()
        for name, found in drift.features.items():
            self.telemetry.drift.labels(name).set(found.p)
            if name in window.values:
                self.telemetry.mean.labels(name).set(found.window)
        if drifted := drift.drifted:
            said = [_said(name, drift) for name in drifted]
            fields: dict[str, Any] = {"features": drifted, "answers": len(window)}
            self.alerts.add("drift", ", ".join(drifted), f"drift in {len(window)} answers: {'; '.join(said)}", **fields)
        self.history.append(Tested(datetime.now(UTC), len(window), drift))


def _said(name: str, drift: Drift) -> str:
    found = drift.features[name]
    change = "" if np.isnan(found.window) else f" {found.reference:.3g} to {found.window:.3g},"
    return f"{name}{change} p={found.p:.2g}"
