"""Test the feedback server under load: nothing is lost or doubled, it answers no error, and its memory stays flat.

`python -m benchmarks.feedback.load` starts `rlhf feedback serve` as a process of its own on a temporary store, lets 64
people sign in, fetch, judge and undo, and in turn

1. kills the server with -9, 20 times, and starts it again: whatever was acknowledged must be in the store, once;
2. holds 1,000 half-sent connections open for a third of the time: the people who are connected are served, others get
   503 past the cap on connections, and the server's memory does not grow;
3. lets 16 strangers try wrong passwords, each try under a new name, so that every try costs a hash: the people's times
   per request are measured with and without them, in turns.

It prints a table, and ends with 1 where a bar is missed. The times depend on the machine; the other numbers do not.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rlhf_envs.feedback import FeedbackStore, NewItem

from .clients import Person, Server, judged, people, slow_connections, strangers, wait_for_work

__all__ = ["Bar", "Load", "main"]

OVERLAP = 3  # judgements per item
GROWTH = 1.2  # the most memory at the end, as a multiple of the memory after the warm-up
SLOWDOWN = 5.0  # the most median time per request during a flood of sign-ins, as a multiple of that without


@dataclass(frozen=True)
class Load:
    """Say how much is asked of the server."""

    clients: int = 64
    kills: int = 20
    slow: int = 1000
    strangers: int = 16
    seconds: float = 30.0  # of the second part, and of each of the four turns of the third
    warm_up: float = 10.0  # before the memory is measured for the first time


@dataclass(frozen=True)
class Bar:
    """Hold a row of the table: what was measured, what is wanted, and whether it was reached (None: no bar)."""

    name: str
    found: str
    wanted: str = ""
    reached: bool | None = None


def survive_kills(server: Server, store: str, load: Load) -> list[Bar]:
    """Kill the server amid work, and compare what was acknowledged with what the store holds."""
    chance = random.Random(0)
    server.start()
    with people(store, server.port, load.clients) as working:
        for _ in range(load.kills):
            wait_for_work(working)
            time.sleep(chance.uniform(0, 0.5))
            server.kill()
            server.start()
        wait_for_work(working)
    server.kill()
    return [
        Bar("kills -9", str(load.kills)),
        *answers(working),
        *compare_with_store(store, working),
    ]


def compare_with_store(store: str, working: Sequence[Person]) -> list[Bar]:
    """Count what was acknowledged and is not in the store, or is there twice, or was taken back and stands."""
    names = {person.name for person in working}
    with FeedbackStore(store) as opened:
        everything = [j for j in opened.judgements(include_skips=True) if j.annotator in names]
        progress = opened.progress()
    found = {judgement.key: judgement for judgement in everything}
    sent = {key: value for person in working for key, value in person.sent.items()}
    stands = {key: number for person in working for key, number in person.stands.items()}
    gone = {key for person in working for key in person.undone}
    lost = sum(key not in found or found[key].id != number for key, number in stands.items())
    wrong = sum(judgement.value != sent[key] for key, judgement in found.items())
    pairs = Counter((judgement.item_id, judgement.annotator) for judgement in everything)
    answers_of = Counter(judgement.item_id for judgement in everything if judgement.value is not None)
    doubled = len(everything) - len(found) + sum(n - 1 for n in pairs.values())
    doubled += sum(max(0, n - OVERLAP) for n in answers_of.values())
    finished = sum(n >= OVERLAP for n in answers_of.values())
    return [
        Bar("acknowledged", f"{len(stands) + len(gone):,}"),
        Bar("lost", str(lost), "0", lost == 0),
        Bar("doubled", str(doubled), "0", doubled == 0),
        Bar("other than sent", str(wrong), "0", wrong == 0),
        Bar("taken back, but standing", str(len(gone & found.keys())), "0", not gone & found.keys()),
        Bar("items finished, as counted", f"{progress.finished:,}", f">= {finished:,}", progress.finished >= finished),
    ]


def answers(working: Sequence[Person]) -> list[Bar]:
    """Count the answers that people got."""
    errors = [error for person in working for error in person.client.errors]
    if errors:
        print(*errors[:5], sep="\n", file=sys.stderr)
    total = sum(person.client.statuses.total() for person in working)
    return [
        Bar("answers", f"{total:,}"),
        Bar("requests without an answer", str(sum(person.client.lost for person in working))),
        Bar("503 past the cap on connections", str(sum(person.client.capped for person in working))),
        Bar("other 5xx", str(len(errors)), "0", not errors),
    ]


def stay_flat(server: Server, store: str, load: Load) -> list[Bar]:
    """Hold slow connections open for a third of the time, and compare the server's memory before and after."""
    server.start()
    with people(store, server.port, load.clients) as working:
        time.sleep(load.warm_up)
        before, done = server.megabytes(), judged(working)
        time.sleep(load.seconds / 3)
        with slow_connections(server.port, load.slow) as held:
            time.sleep(load.seconds / 3)
        time.sleep(load.seconds / 3)
        wait_for_work(working)
        after, total = server.megabytes(), judged(working) - done
    server.kill()
    grown = after / before
    return [
        Bar("half-sent connections, at most at once", f"{max(held):,}"),
        Bar("judgements meanwhile", f"{total:,}", "> 0", total > 0),
        Bar("memory after the warm-up, MB", f"{before:.0f}"),
        Bar("memory at the end / after the warm-up", f"{grown:.2f}", f"<= {GROWTH}", grown <= GROWTH),
        *answers(working),
        *compare_with_store(store, working)[1:3],
    ]


def outlast_flood(server: Server, store: str, load: Load) -> list[Bar]:
    """Measure people's times per request in turns, with and without strangers who try passwords."""
    server.start()
    times: dict[bool, list[float]] = {False: [], True: []}
    tried: Counter[int] = Counter()
    with people(store, server.port, max(1, load.clients // 8)) as working:
        for flooded in (False, True, False, True):
            with strangers(server.port, load.strangers if flooded else 0, tried):
                time.sleep(1)  # until the turn before is over, and the queue is full
                starts = [len(person.client.seconds) for person in working]
                time.sleep(load.seconds)
                for person, start in zip(working, starts, strict=True):
                    times[flooded] += [seconds for path, seconds in person.client.seconds[start:] if path != "login"]
    server.kill()
    (calm, calm_95), (busy, busy_95) = (
        (statistics.median(found), statistics.quantiles(found, n=20)[-1]) for found in (times[False], times[True])
    )
    ratio, ratio_95 = busy / calm, busy_95 / calm_95
    hashed = tried[401]
    return [
        Bar("wrong passwords that were hashed", f"{hashed:,}", "> 0", hashed > 0),
        Bar("tries refused (429, and 503 as too many wait)", f"{tried[429] + tried[503]:,}"),
        Bar("median ms per request, calm / flooded", f"{1000 * calm:.1f} / {1000 * busy:.1f}"),
        Bar("95th percentile, ms, calm / flooded", f"{1000 * calm_95:.1f} / {1000 * busy_95:.1f}"),
        Bar("slowdown of the median", f"{ratio:.1f}x", f"<= {SLOWDOWN}x", ratio <= SLOWDOWN),
        Bar("slowdown of the 95th percentile", f"{ratio_95:.1f}x"),
        *answers(working),
    ]


def main(load: Load | None = None) -> list[Bar]:
    """Run the three parts, print their tables, and return all rows."""
    load = load or Load()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, load.slow + load.clients + 200)), hard))
    rows: list[Bar] = []
    with TemporaryDirectory() as folder:
        store = str(Path(folder, "feedback.db"))
        with FeedbackStore(store) as opened:
            opened.add_items([NewItem("pairwise", "p", ("a", "b"), overlap=OVERLAP) for _ in range(50_000)])
        server = Server(store)
        try:
            for part in (survive_kills, stay_flat, outlast_flood):
                found = part(server, store, load)
                print(f"\n{part.__name__.replace('_', ' ')}")
                for row in found:
                    verdict = {None: "", True: "reached", False: "MISSED"}[row.reached]
                    print(f"  {row.name:<46} {row.found:>16}  {row.wanted:>10}  {verdict}")
                rows += found
        finally:
            server.kill()
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in vars(Load()).items():
        parser.add_argument(f"--{option.replace('_', '-')}", type=type(default), default=default)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(1 if any(row.reached is False for row in main(Load(**vars(parser.parse_args())))) else 0)
