"""Measure what the gateway does, for Prometheus, and log every request as one line of JSON, without its texts."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rlhf_envs.files import to_json

__all__ = ["JsonLines", "Telemetry", "log_json"]

logger = logging.getLogger("rlhf.serve")

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
OWN_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1)


class Telemetry:
    """Hold the metrics of one gateway."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter("rlhf_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.refusals = Counter("rlhf_refusals", "Requests refused, by the reason.", ["code"], registry=registry)
        self.seconds = Histogram(
            "rlhf_request_seconds",
            "Time until the whole answer was sent.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.first = Histogram(
            "rlhf_first_token_seconds", "Time until a stream's first text.", buckets=SECONDS, registry=registry
        )
        self.own = Histogram(
            "rlhf_gateway_seconds",
            "The gateway's own part of an answer that is no stream, without waits for body, place and engine.",
            buckets=OWN_SECONDS,
            registry=registry,
        )
        self.waited = Histogram(
            "rlhf_queue_seconds", "Time that requests waited for a place.", buckets=SECONDS, registry=registry
        )
        self.tokens = Counter("rlhf_tokens", "Tokens, as the engine counts them.", ["kind"], registry=registry)
        self.feedback = Counter("rlhf_feedback", "What people said of completions.", ["kind"], registry=registry)
        self.sampled = Counter("rlhf_review_items", "Completions put into the review queue.", registry=registry)
        self._watch(registry)
        self.running = Gauge("rlhf_requests_running", "Requests at the engine.", registry=registry)
        self.waiting = Gauge("rlhf_requests_waiting", "Requests that wait for a place.", registry=registry)
        self.engine_up = Gauge("rlhf_engine_up", "Whether the engine answers.", registry=registry)
        self.restarts = Counter("rlhf_engine_restarts", "Times that the engine had to be restarted.", registry=registry)

    def _watch(self, registry: CollectorRegistry) -> None:
        """Make what `Watch` and `Alerts` count."""
        self.watched = Counter("rlhf_watched", "Answers watched.", registry=registry)
        self.refused = Counter("rlhf_model_refusals", "Answers that look like refusals.", registry=registry)
        self.dropped = Counter(
            "rlhf_watch_dropped",
            "Answers not watched or not scored for want of room, and alerts that the webhook did not get.",
            ["part"],
            registry=registry,
        )
        self.scored = Counter("rlhf_scored", "Answers scored.", ["scorer"], registry=registry)
        self.score_failures = Counter(
            "rlhf_score_failures", "Answers whose scorer failed.", ["scorer"], registry=registry
        )
        self.windows = Counter("rlhf_drift_windows", "Windows tested for drift.", registry=registry)
        self.drift = Gauge("rlhf_drift_p", "The last window's corrected p-value.", ["feature"], registry=registry)
        self.mean = Gauge("rlhf_window_mean", "The last window's mean.", ["feature"], registry=registry)
        self.topics = Counter("rlhf_topics", "Texts with a topic.", ["topic"], registry=registry)
        self.alerts = Counter("rlhf_alerts", "Alerts raised.", ["kind"], registry=registry)
        self.webhook = Counter("rlhf_webhook_tries", "Tries to deliver an alert.", ["result"], registry=registry)

    def render(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self.registry)


class JsonLines(logging.Formatter):
    """Write a record as one line of JSON: the time, the event, and the fields that `log_json` gives."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:  # the place alone: a message may hold a text
            line["error"] = record.exc_info[0].__name__
            line["at"] = _place(record.exc_info[2])
        return to_json(line, default=str)

    @staticmethod
    def remove(handler: logging.Handler) -> None:
        """Undo `to`."""
        logger.removeHandler(handler)
        logger.propagate = True

    @classmethod
    def to(cls, stream: TextIO | None = None) -> logging.Handler:
        """Let the gateway's log go to a stream, by default standard error. Return the handler."""
        handler = logging.StreamHandler(stream or sys.stderr)
        handler.setFormatter(cls())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        return handler


def log_json(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event with fields, which hold no text of a prompt or a completion."""
    logger.log(level, event, extra={"fields": fields})


def _place(traceback: Any) -> str:
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
