"""Ask a judge many questions: concurrently, with a cache on disk, and within a limit of costs."""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from .backends import Backend, JudgeError, LocalModel, Refused, Server
from .settings import JudgeSettings

__all__ = ["Asker", "BudgetSpent", "JudgeError", "Question", "Usage"]

logger = logging.getLogger(__name__)

ENOUGH = 20  # answers, before the share of failures is judged


class BudgetSpent(JudgeError):
    """Signal that the limit of requests or tokens is reached. What was answered is in the cache."""


class Question(NamedTuple):
    """Hold a chat and the answers that it may end in, as a local model is given them."""

    messages: list[dict[str, str]]
    options: tuple[str, ...]


class Usage:
    """Count what a judge has cost. `text` says it in a line.

    Attributes:
        requests: sent, retries among them.
        tokens: of questions and answers, as the server counts them; else about 4 characters each.
        cached: answers that came from the disk.
        answers: answers that came from the judge.
        failures: answers without a verdict, and questions that the judge refused.
    """

    def __init__(self) -> None:
        self.requests = self.tokens = self.cached = self.answers = self.failures = 0

    @property
    def text(self) -> str:
        """Return the counts in a line."""
        return (
            f"{self.requests} requests, {self.tokens:,} tokens, {self.cached} answers from the cache, "
            f"{self.failures} without a verdict"
        )

    def to_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return dict(vars(self))


class Asker:
    """Ask the questions of one judge.

    Args:
        settings: the judge.
        backend: who answers; by default the server or the local model of the settings.
    """

    def __init__(self, settings: JudgeSettings, backend: Backend | None = None) -> None:
        self._settings = settings
        self.backend = backend or (LocalModel(settings) if settings.url is None else Server(settings))
        self.usage = Usage()
        self._lock = threading.Lock()
        self._cache = _Cache(settings.cache) if isinstance(settings.cache, str) else None
        self._fingerprint: str | None = None
        self._refusals: list[str] = []  # the server's words

    @property
    def fingerprint(self) -> str:
        """Return what tells the judge's model from others."""
        if self._fingerprint is None:
            self._fingerprint = self.backend.fingerprint()
        return self._fingerprint

    def ask(self, questions: Sequence[Question], is_answer: Callable[[Question, str], bool]) -> list[str | None]:
        """Return the answers in the order of the questions; None where an answer has no verdict or is refused.

        Equal questions are asked once. Answers with a verdict are kept in the cache, also if an error comes later.

        Args:
            questions: what is asked.
            is_answer: says whether an answer to a question has a verdict.

        Raises:
            BudgetSpent: the limit of requests or tokens is reached.
            JudgeError: the judge cannot be asked, or too many answers have no verdict.
        """
        keys = [self._key(question) for question in questions]
        distinct = dict(zip(keys, questions, strict=True))
        found: dict[str, str | None] = {}
        if self._cache is not None:
            known = self._cache.read([*distinct])
            found.update({key: text for key, text in known.items() if is_answer(distinct[key], text)})
            self.usage.cached += len(found)
        missing = [key for key in distinct if key not in found]
        if missing:
            self._fingerprint = self.fingerprint  # before the threads
            stop = threading.Event()

            def answer(key: str) -> str | None:
                if stop.is_set():
                    return None
                try:
                    return self._answer(key, distinct[key], is_answer)
                except BaseException:
                    stop.set()
                    raise

            pool = ThreadPoolExecutor(min(self._settings.concurrency, len(missing)))
            futures = {key: pool.submit(answer, key) for key in missing}
            try:
                wait(futures.values())
            finally:  # also at Ctrl-C, where what is under way is left alone
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
            # the threads are at an end: an error comes after everything that was answered is in the cache
            errors = [error for future in futures.values() if (error := future.exception()) is not None]
            if errors:
                raise next((error for error in errors if not isinstance(error, BudgetSpent)), errors[0])
            found.update({key: future.result() for key, future in futures.items()})
            self._check_failures()
        return [found[key] for key in keys]

    def _answer(self, key: str, question: Question, is_answer: Callable[[Question, str], bool]) -> str | None:
        try:
            reply = self.backend.ask(question.messages, question.options, self._spend)
        except Refused as refused:
            self._note_refusal(str(refused))
            reply = None
        with self._lock:
            self.usage.answers += 1
            self.usage.tokens += 0 if reply is None else reply.tokens
            if reply is None or not is_answer(question, reply.text):
                self.usage.failures += 1
                return None
        if self._cache is not None:
            self._cache.write(key, reply.text)
        return reply.text

    def _note_refusal(self, words: str) -> None:
        with self._lock:
            self._refusals.append(words)
            if len(self._refusals) > 1:
                return
        logger.warning("judge %s takes a question not: %s (said once)", self._settings.called, words)

    def _spend(self) -> None:
        """Count a request, or raise BudgetSpent if it would be one too many."""
        limits = self._settings
        with self._lock:
            for name, limit, spent in (
                ("max_requests", limits.max_requests, self.usage.requests),
                ("max_total_tokens", limits.max_total_tokens, self.usage.tokens),
            ):
                if limit is not None and spent >= limit:
                    kept = "the next time, answers come from the cache" if self._cache else "nothing is cached"
                    raise BudgetSpent(f"judge {limits.called}: {name}={limit:,} is reached ({self.usage.text}); {kept}")
            self.usage.requests += 1

    def _check_failures(self) -> None:
        failed, answers, most = self.usage.failures, self.usage.answers, self._settings.max_failures
        if answers >= ENOUGH and failed > most * answers:
            refused = f" ({len(self._refusals)} refused, the last: {self._refusals[-1]})" if self._refusals else ""
            raise JudgeError(
                f"judge {self._settings.called}: {failed} of {answers} answers have no verdict{refused}, above "
                f"max_failures={most:g}: look at what the model answers, or give it more max_tokens"
            )

    def _key(self, question: Question) -> str:
        asked = [self.fingerprint, self._settings.temperature, self._settings.max_tokens, question.messages]
        return hashlib.sha256(json.dumps([*asked, question.options]).encode()).hexdigest()


class _Cache:
    """Keep answers in a SQLite file, by the hash of model and question. They may quote the texts that are judged."""

    def __init__(self, file: str) -> None:
        self._lock = threading.Lock()
        try:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(file, timeout=30, check_same_thread=False)
            with self._connection:
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT NOT NULL)"
                )
        except sqlite3.Error as error:
            raise JudgeError(
                f"the cache {file} cannot be used ({error}): name another one, or write cache: false"
            ) from error

    def read(self, keys: Sequence[str]) -> dict[str, str]:
        with self._lock:
            rows = (
                self._connection.execute("SELECT key, text FROM answers WHERE key = ?", (key,)).fetchone()
                for key in keys
            )
            return {row[0]: row[1] for row in rows if row is not None}

    def write(self, key: str, text: str) -> None:
        text = text.encode(errors="replace").decode()
        with self._lock, self._connection:
            self._connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, text))
