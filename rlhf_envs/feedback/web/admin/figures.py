"""Keep the figures of the admin's pages, so that no page waits for them. They are computed anew when the store changes.

While they are cheap, a page waits and is exact. Where they take long (many judgements), a page shows the last ones,
says of when they are, and a thread computes new ones.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import sqlalchemy as sa
from fastapi import Request

from ...agreement import CrowdFigures
from ...records import Item, Judgement
from ...store.queue import IS_SETTING
from ...store.schema import adjudications, audit, items, judgements, settings
from ...store.store import FeedbackStore
from .summary import Summary, summarise

__all__ = ["Analyse", "Figures", "figures_of"]

Analyse = Callable[[Sequence[Item], Sequence[Judgement]], CrowdFigures]

_CHEAP = 0.3  # seconds that a page may wait
_MOST_AGE = 60.0  # seconds: throughput changes with the clock
_FEW = 2000  # judgements up to which a first page waits for everything

logger = logging.getLogger(__name__)


class Figures:
    """Compute a project's figures and remember them.

    Args:
        store: the project's store.
        analyse: estimates annotators' ability and items' difficulty, as `rlhf_envs.preferences.crowd.crowd_figures`
            does, which this package cannot import. The difficulty goes into the store, so that items can be sorted by
            it. None leaves both out.
    """

    def __init__(self, store: FeedbackStore, analyse: Analyse | None = None) -> None:
        self._store, self._analyse = store, analyse
        self._lock = threading.Lock()
        self._summary: Summary | None = None
        self._of: tuple[Any, ...] = ()
        self._cost = self._at = 0.0
        self._busy = False

    def get(self) -> Summary:
        """Return the figures: of now, or, where that would take long, the last ones. `as_of` says of when.

        Whether the project is paused is always of now: who has just paused it looks for that.
        """
        summary, paused = self._figures(), self._store.settings.paused
        return summary if summary.paused == paused else summary.model_copy(update={"paused": paused})

    def _figures(self) -> Summary:
        now_of = self._version()
        with self._lock:
            summary = self._summary
            is_new = self._of == now_of and time.monotonic() - self._at < _MOST_AGE
            if summary is not None and (is_new or self._busy):
                return summary
            waits = summary is None or self._cost < _CHEAP
            self._busy = not waits
        if waits:
            n = now_of[0]
            summary = self._compute(now_of, with_crowd=n is None or n <= _FEW)
            if n is not None and n > _FEW:
                with self._lock:
                    self._busy, self._of = True, ()
                threading.Thread(target=self._compute_quietly, daemon=True).start()
            return summary
        threading.Thread(target=self._compute_quietly, daemon=True).start()
        assert summary is not None
        return summary

    def _compute_quietly(self) -> None:
        try:
            self._compute(self._version(), with_crowd=True)
        except Exception:  # a thread has nobody to tell but the log; the next page tries again
            logger.exception("the figures of %s could not be computed", self._store.url)
            with self._lock:
                self._busy = False

    def _compute(self, of: tuple[Any, ...], with_crowd: bool) -> Summary:
        begun = time.monotonic()
        crowd = None
        if with_crowd and self._analyse is not None:
            try:
                crowd = self._analyse(self._store.items(), self._store.judgements())
            except ImportError as error:
                logger.info("no ability and difficulty: %s", error)
            else:
                self._store.set_difficulties(crowd.difficulty)
        summary = summarise(self._store, crowd=crowd)
        with self._lock:
            if crowd is None and self._summary is not None:  # better old ones than none
                known = {row.name: (row.ability, row.ability_n) for row in self._summary.annotators}
                for row in summary.annotators:
                    row.ability, row.ability_n = known.get(row.name, (None, 0))
            self._summary, self._of, self._busy = summary, of, False
            self._cost, self._at = time.monotonic() - begun, time.monotonic()
        return summary

    def _version(self) -> tuple[Any, ...]:
        """Return what changes whenever a figure may: cheap to ask, and different after every write that counts."""
        counts = sa.select(
            sa.select(sa.func.max(judgements.c.id)).scalar_subquery(),
            sa.select(sa.func.count()).where(judgements.c.undone).scalar_subquery(),
            sa.select(sa.func.max(audit.c.id)).scalar_subquery(),
            sa.select(sa.func.count()).select_from(items).scalar_subquery(),
            sa.select(sa.func.sum(items.c.needed)).scalar_subquery(),
            sa.select(sa.func.count()).select_from(adjudications).scalar_subquery(),
        )
        with self._store._database.read() as connection:
            row = tuple(connection.execute(counts).one())
            values = connection.execute(
                sa.select(settings.c.name, sa.cast(settings.c.value, sa.Text)).where(IS_SETTING)
            )
            plain = tuple(sorted(tuple(pair) for pair in values))
        return (*row, plain, tuple(self._store.annotators()))


def figures_of(request: Request) -> Figures:
    """Return the app's figures."""
    return cast(Figures, request.app.state.figures)
