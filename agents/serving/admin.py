"""Show people what is served, as one page of HTML without scripts and without anything from elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from .watch import Tested, Watch

if TYPE_CHECKING:
    from .gateway import Gateway

__all__ = ["ADMIN_HEADERS", "admin_page"]

ADMIN_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
REFRESH = 30  # seconds
STYLE = """
:root { color-scheme: light dark; --line: #d0d5dc; --soft: #5a6472; --bad: #b3261e; --good: #1b6e3c; --ink: #2457a6 }
@media (prefers-color-scheme: dark) {
  :root { --line: #3d444e; --soft: #a3adba; --bad: #ff8a80; --good: #7bd39b; --ink: #8ab4f8 }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p { margin: .3rem 0 } .soft { color: var(--soft) } .bad { color: var(--bad); font-weight: 600 }
.good { color: var(--good) } .good, .bad { white-space: nowrap }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 600; white-space: nowrap } .number { text-align: right; font-variant-numeric: tabular-nums }
.time { white-space: nowrap } svg { display: block } polyline { fill: none; stroke: var(--ink); stroke-width: 1.5 }
svg line { stroke: var(--soft); stroke-dasharray: 3 3 } circle { fill: var(--bad) }
"""


def admin_page(gateway: Gateway) -> str:
    """Return the page."""
    sections = [_requests(gateway.telemetry.registry)]
    if gateway.watch is None:
        sections.append("<h2>Drift, scores and alerts</h2><p>Nothing is watched: start with <code>--watch</code>.</p>")
    else:
        sections += [_drift(gateway.watch), _scores(gateway.watch), _topics(gateway.watch), _alerts(gateway.watch)]
    name = escape(gateway.settings.name)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="refresh" content="{REFRESH}"><title>{name} – rlhf serve</title>'
        f"<style>{STYLE}</style></head>"
        f"<body><header><h1>{name}</h1>{_state(gateway)}</header><main>{''.join(sections)}</main></body></html>"
    )


def _state(gateway: Gateway) -> str:
    problem = "the server is about to end" if gateway.draining else gateway.engine.problem
    state = '<span class="good">ready</span>' if problem is None else f'<span class="bad">{escape(problem)}</span>'
    up = (time.time() - gateway.started) / 60
    since = f"{up:.0f} minutes" if up < 120 else f"{up / 60:.0f} hours" if up < 2880 else f"{up / 1440:.0f} days"
    running, waiting = gateway.admission.n_running, gateway.admission.n_waiting
    return (
        f"<p>{state}, up {since}. {running} at the engine, {waiting} waiting. "
        f'<span class="soft">This page loads again every {REFRESH} s.</span></p>'
    )


def _requests(registry: CollectorRegistry) -> str:
    answered = _samples(registry, "rlhf_requests_total")
    statuses = sorted({labels["status"] for labels, _ in answered})
    routes: dict[str, dict[str, float]] = {}
    for labels, value in answered:
        routes.setdefault(labels["route"], {})[labels["status"]] = value
    if not routes:
        return "<h2>Requests</h2><p>None yet.</p>"
    rows = [
        [escape(route), *(_number(counts.get(status, 0)) for status in statuses)]
        for route, counts in sorted(routes.items())
    ]
    return "<h2>Requests, by status</h2>" + _table(["address", *statuses], rows)


def _drift(watch: Watch) -> str:
    settings, test = watch.settings, watch.test
    title = "<h2>Drift</h2>"
    if test is None:
        return f"{title}<p>The reference has {len(watch.rows)} of {settings.reference} answers.</p>"
    chance = f"{settings.false_alarms:g} per window" if settings.windows == 1 else (
        f"{settings.false_alarms:g} in {settings.windows} windows"
    )  # fmt: skip
    about = (
        f"<p>{len(watch.rows)} of {settings.window} answers in this window; {len(test.reference)} in the reference. "
        f"The chance of a false alarm is {chance}.</p>"
    )
    history = [*watch.history]
    if not history:
        return title + about + "<p>No window is full yet.</p>"
    last = history[-1]
    rows = []
    for name, found in last.drift.features.items():
        verdict = '<span class="bad">drift</span>' if found.drifted else '<span class="good">as before</span>'
        chart = _chart(history, name, test.level)
        means = (_number(found.reference), _number(found.window))
        rows.append([escape(name), verdict, *means, f"{found.p:.3f}", chart])
    head = ["feature", "", "reference", "window", "p", f"p of the last {len(history)} windows"]
    when = f'<p class="soft">Last window: {last.ended:%Y-%m-%d %H:%M} UTC. p is corrected for all features.</p>'
    return title + about + _table(head, rows, numbers=(2, 3, 4)) + when


def _chart(history: Sequence[Tested], name: str, level: float) -> str:
    """Draw the p-values of a feature, on a logarithmic scale, with the level as a line and alarms as dots."""
    width, height, least = 220, 36, math.log(min(level / 10, 1e-3))

    def place(i: int, p: float) -> tuple[float, float]:
        depth = min(math.log(max(p, 1e-300)) / least, 1.0)
        return 4 + i * (width - 8) / max(len(history) - 1, 1), 3 + depth * (height - 6)

    found = [(i, tested.drift.features[name]) for i, tested in enumerate(history) if name in tested.drift.features]
    points = [place(i, feature.p) for i, feature in found]
    y = place(0, level)[1]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
        for (x, y), (_, feature) in zip(points, found, strict=True)
        if feature.drifted
    )
    alarms = sum(feature.drifted for _, feature in found)
    label = f"{escape(name)}: {alarms} of {len(found)} windows drifted"
    return (
        f'<svg role="img" aria-label="{label}" width="{width}" height="{height}">'
        f'<line x1="0" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/><polyline points="{line}"/>{dots}</svg>'
    )


def _scores(watch: Watch) -> str:
    if not watch.scorers:
        return ""
    registry = watch.telemetry.registry
    done, failed = (_by(registry, f"rlhf_{name}_total", "scorer") for name in ("scored", "score_failures"))
    rows = [[escape(name), _number(done.get(name, 0)), _number(failed.get(name, 0))] for name in watch.scorers]
    left = _by(registry, "rlhf_watch_dropped_total", "part").get("score", 0)
    share = f"<p>{watch.settings.share:.0%} of the answers are scored. {left:.0f} found no room.</p>"
    return "<h2>Scores</h2>" + share + _table(["scorer", "scored", "failed"], rows)


def _topics(watch: Watch) -> str:
    if watch.topics is None:
        return ""
    rows = [[escape(name), _number(watch.found[name])] for name in watch.topics.names]
    return "<h2>Topics</h2>" + _table(["topic", "texts"], rows)


def _alerts(watch: Watch) -> str:
    tries = _by(watch.telemetry.registry, "rlhf_webhook_tries_total", "result")
    hook = (
        "<p>They go into the log; there is no webhook.</p>"
        if watch.alerts.webhook is None
        else f"<p>The webhook took {tries.get('sent', 0):.0f}; {tries.get('failed', 0):.0f} tries failed.</p>"
    )
    rows = [
        [f'<span class="time">{alert.created:%m-%d %H:%M:%S}</span>', escape(alert.kind), escape(alert.message)]
        for alert in reversed([*watch.alerts.recent])
    ]
    found = _table(["UTC", "kind", "what"], rows, numbers=()) if rows else "<p>None.</p>"
    return "<h2>Alerts</h2>" + hook + found


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] | None = None) -> str:
    """Return a table of HTML. All columns but the first hold numbers, unless said otherwise."""
    chosen = range(1, len(head)) if numbers is None else numbers
    kind = ["number" if i in chosen else "" for i in range(len(head))]
    top = "".join(f'<th scope="col" class="{k}">{text}</th>' for k, text in zip(kind, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f'<td class="{k}">{text}</td>' for k, text in zip(kind, row, strict=True)) + "</tr>"
        for row in rows
    )
    region = f'<div class="wide" tabindex="0" role="region" aria-label="{head[0]}">'
    return f"{region}<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _samples(registry: CollectorRegistry, name: str) -> list[tuple[dict[str, str], float]]:
    return [(s.labels, s.value) for family in registry.collect() for s in family.samples if s.name == name]


def _by(registry: CollectorRegistry, name: str, label: str) -> dict[str, float]:
    return {labels[label]: value for labels, value in _samples(registry, name)}
