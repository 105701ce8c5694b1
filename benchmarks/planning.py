"""Reckon what more machines would bring, by a discrete-event simulation of iterations, and where this design stops.

    python -m benchmarks.planning
    python -m benchmarks.planning --n-envs 1024 --step-us 49.3 --network 12.5 --jitter 0.2

Nothing is trained here. The first table scales a run that was measured on CPUs. The second is of GPUs that nobody lent:
their speed is a roofline, peak numbers of a data sheet times assumed shares of them. The third asks what a million
environments need. All inputs are flags, and the defaults say where they are from:

- measured: benchmarks/RESULTS.md, "Several ranks" (seconds of work for 1,024 tokens on one rank and on two) and the
  profile of an iteration (the lines environment, buffer and rest);
- data sheets: NVIDIA's for the H200 SXM (4.8 TB/s, 141 GB, 989 dense bfloat16 TFLOP/s);
- assumed: everything else.

A plan is `ranks`, where each GPU collects and learns (`rlhf train --nproc`), or `workers`, where one GPU learns and all
others collect (`rlhf train --workers`), in turn with the learner or, with `async 1`, beside it and one update behind.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_envs.rendering import markdown_table

__all__ = ["Costs", "Iteration", "main", "simulate_ranks", "simulate_workers"]

ITERATIONS = 50  # that are simulated; of workers' the first three are left out
SHAPES = {  # parameters, layers, heads of keys and values, size of a head
    "SmolLM2-135M": (134_515_008, 30, 3, 64),
    "Llama-3.2-1B": (1_235_814_400, 16, 8, 64),
}


@dataclass(frozen=True)
class Costs:
    """Hold the seconds that parts of an iteration take.

    Attributes:
        rollout: to collect a share on one machine, without chance.
        update: of the learner; in data-parallel runs of each rank.
        broadcast: to hand the weights to one worker; the learner sends to one after the other.
        gather: to receive the rollout of one worker, likewise.
        sums: to sum gradients over ranks, in all.
        jitter: standard deviation of the logarithm of a factor on each rollout: stragglers.
    """

    rollout: float
    update: float
    broadcast: float = 0.0
    gather: float = 0.0
    sums: float = 0.0
    jitter: float = 0.0


@dataclass(frozen=True)
class Iteration:
    """Hold the mean seconds of an iteration, and of these the share in which a machine that collects has nothing to do.

    Attributes:
        waits: mean share over the machines that collect.
        learner: share in which the learner updates.
    """

    seconds: float
    waits: float
    learner: float


class _Clock:
    """Run actions at their times, in order."""

    def __init__(self) -> None:
        self.now, self._queue, self._n = 0.0, list[tuple[float, int, Callable[[], None]]](), 0

    def at(self, time: float, action: Callable[[], None]) -> None:
        self._n += 1
        heapq.heappush(self._queue, (time, self._n, action))

    def run(self) -> None:
        while self._queue:
            self.now, _, action = heapq.heappop(self._queue)
            action()


def simulate_ranks(costs: Costs, n: int, seed: int = 0) -> Iteration:
    """Simulate ranks that collect, wait for the slowest, and update together."""
    draw = random.Random(seed)
    seconds = waits = 0.0
    for _ in range(ITERATIONS):
        rollouts = [costs.rollout * draw.lognormvariate(0, costs.jitter) for _ in range(n)]
        whole = max(rollouts) + costs.update + (costs.sums if n > 1 else 0.0)
        seconds += whole / ITERATIONS
        waits += (max(rollouts) - sum(rollouts) / n) / whole / ITERATIONS
    return Iteration(seconds, waits, costs.update / seconds)


def simulate_workers(costs: Costs, n: int, is_async: bool, seed: int = 0) -> Iteration:
    """Simulate workers that collect for one learner.

    Rollout k begins when rollout k - 1 is in and update k - 1 (with `is_async` k - 2) is done. Weights go out and
    rollouts come in over the learner's network, one at a time.
    """
    clock, draw, lag = _Clock(), random.Random(seed), 2 if is_async else 1
    busy, arrived, ends, asked = 0.0, dict[int, int](), {-1: 0.0, -2: 0.0}, set[int]()
    received: dict[int, float] = {-1: 0.0}
    network = learner = 0.0

    def transfer(seconds: float) -> float:
        nonlocal network
        network = max(network, clock.now) + seconds
        return network

    def begin_if_due(k: int) -> None:
        if k >= ITERATIONS or k in asked or k - 1 not in received or k - lag not in ends:
            return
        asked.add(k)
        for _ in range(n):
            clock.at(transfer(costs.broadcast), lambda: collect(k))

    def collect(k: int) -> None:
        nonlocal busy
        seconds = costs.rollout * draw.lognormvariate(0, costs.jitter)
        busy += seconds
        clock.at(clock.now + seconds, lambda: clock.at(transfer(costs.gather), lambda: receive(k)))

    def receive(k: int) -> None:
        nonlocal learner
        arrived[k] = arrived.get(k, 0) + 1
        if arrived[k] < n:
            return
        received[k] = clock.now
        learner = max(learner, clock.now) + costs.update
        clock.at(learner, lambda: end(k))
        begin_if_due(k + 1)

    def end(k: int) -> None:
        ends[k] = clock.now
        begin_if_due(k + 1)
        begin_if_due(k + 2)

    begin_if_due(0)
    clock.run()
    first = 3
    seconds = (ends[ITERATIONS - 1] - ends[first - 1]) / (ITERATIONS - first)
    return Iteration(seconds, 1 - busy / n / ITERATIONS / seconds, costs.update / seconds)


def gpu_costs(args: argparse.Namespace, model: str, n: int, collectors: int, learners: int) -> Costs:
    """Return what `n` GPUs cost, of which so many collect and so many learn: the roofline."""
    size = SHAPES[model][0]
    step, _ = step_seconds(args, model, args.n_envs)
    tokens, speed = collectors * args.n_envs * args.n_steps, args.flops * 1e12 * args.compute_share
    prompt = max(args.context - args.n_steps / 2, 0)  # each environment has one episode per rollout
    text = args.n_envs * (prompt + args.n_steps)  # tokens of all episodes of a GPU, which every pass of an update reads
    passes = 1 + 2 * args.epochs  # the reference; each epoch forward and, for LoRA without the weights' own, back
    scored = 2 * size * text / speed  # a reward model of the same size
    filled = 2 * size * args.n_envs * prompt / speed
    network, trained = args.network * 1e9, size * args.trained_share * 4
    minibatches = args.epochs * args.minibatches
    return Costs(
        rollout=filled + args.n_steps * step + scored,
        update=2 * size * passes * collectors * text / learners / speed + python_seconds(args, tokens / learners),
        broadcast=trained / network,
        gather=args.n_envs * args.n_steps * args.token_bytes / network,
        sums=minibatches * (2 * trained / network + args.latency_us * 1e-6 * math.log2(max(n, 2))),
        jitter=args.jitter,
    )


def python_seconds(args: argparse.Namespace, tokens: float) -> float:
    """Return the seconds that a learner's Python takes for an iteration of so many tokens."""
    return tokens * args.learn_us * 1e-6 + args.rest_ms * 1e-3


def step_seconds(args: argparse.Namespace, model: str, n_envs: int) -> tuple[float, float]:
    """Return the seconds of one step of all environments of a GPU, and of these Python's."""
    size = SHAPES[model][0]
    cache = n_envs * args.context * cache_bytes(model)
    memory = (2 * size + cache) / (args.bandwidth * 1e12 * args.bandwidth_share)
    compute = 2 * size * n_envs / (args.flops * 1e12 * args.compute_share)
    python = n_envs * args.step_us * 1e-6
    return max(memory, compute) + args.launch_us * 1e-6 + python, python


def cache_bytes(model: str) -> int:
    """Return the bytes of keys and values of a token in bfloat16."""
    _, layers, heads, width = SHAPES[model]
    return 2 * 2 * layers * heads * width


def cpu_table(args: argparse.Namespace) -> str:
    """Return what the measured run takes on more ranks: a part of the work is each rank's own whole."""
    fixed = args.two_rank_work - args.one_rank_work  # 2 (a + b / 2) = two, a + b = one
    rows = []
    for n in (1, 2, 8, 64):
        work = fixed + (args.one_rank_work - fixed) / n
        half = work / 2  # half collects, half learns: only the sum counts, but for the waiting
        found = simulate_ranks(Costs(half, half, jitter=args.jitter), n)
        rows.append([str(n), _show(found.seconds), _show(args.cpu_tokens / found.seconds), _times(args, found)])
    return markdown_table(["ranks, a core each", "s per iteration", "tokens/s", "times one rank"], rows)


def _times(args: argparse.Namespace, found: Iteration) -> str:
    return f"{simulate_ranks(Costs(args.one_rank_work, 0.0), 1).seconds / found.seconds:.1f}"


def gpu_table(args: argparse.Namespace) -> str:
    """Return iterations of each model and plan on 1, 8 and 64 GPUs."""
    rows = []
    for model in SHAPES:
        alone = simulate_ranks(gpu_costs(args, model, 1, 1, 1), 1)
        base = args.n_envs * args.n_steps / alone.seconds
        rows.append(_row(args, model, "alone", 1, args.n_envs, alone, base))
        for n in (8, 64):
            found = simulate_ranks(gpu_costs(args, model, n, n, n), n)
            rows.append(_row(args, model, "ranks", n, n * args.n_envs, found, base))
            for is_async in (False, True):
                found = simulate_workers(gpu_costs(args, model, n, n - 1, 1), n - 1, is_async)
                plan = "workers, async 1" if is_async else "workers"
                rows.append(_row(args, model, plan, n, (n - 1) * args.n_envs, found, base))
    head = ["model", "plan", "GPUs", "environments", "s per iteration", "tokens/s", "times one GPU", "collectors wait"]
    return markdown_table([*head, "learner busy", "of it Python", "GPU hours per billion tokens"], rows)


def _row(
    args: argparse.Namespace, model: str, plan: str, n: int, n_envs: int, found: Iteration, base: float
) -> list[str]:
    speed = n_envs * args.n_steps / found.seconds
    learners = n if plan == "ranks" else 1
    shares = [f"{found.waits:.0%}", f"{found.learner:.0%}"]
    shares.append(f"{python_seconds(args, n_envs * args.n_steps / learners) / found.seconds / found.learner:.0%}")
    cells = [model, plan, str(n), f"{n_envs:,}", _show(found.seconds), _show(speed), f"{speed / base:.1f}"]
    return [*cells, *shares, _show(1e9 / speed * n / 3600)]


def million_table(args: argparse.Namespace) -> str:
    """Return what a million environments need, on 64 GPUs and on as many as their caches need."""
    rows = []
    for model, (size, *_) in SHAPES.items():
        caches = args.million * args.context * cache_bytes(model)
        room = args.memory * 1e9 * 0.9 - 2 * size - args.update_gb * 1e9
        least = math.ceil(caches / room)
        for n in sorted({64, max(64, least)}):
            whole, python = step_seconds(args, model, math.ceil(args.million / n))
            passes = math.ceil(caches / n / room)
            rollout = args.million * args.n_steps * args.token_bytes / 1e9
            cells = [model, str(n), f"{caches / 1e12:.1f}", str(passes), _show(whole), f"{python / whole:.0%}"]
            rows.append([*cells, _show(rollout), _show(rollout / args.network)])
    head = ["model", "GPUs", "KV caches, TB", "times the room for them", "s per step of all", "of it Python"]
    return markdown_table([*head, "a rollout, GB", "s to reach one learner"], rows)


def _show(value: float) -> str:
    """Return a number with three digits that count."""
    if value >= 1000:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}"


def parser() -> argparse.ArgumentParser:
    """Return the flags, with the defaults that the page has."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add(name: str, default: float, text: str) -> None:
        found.add_argument(f"--{name}", type=type(default), default=default, help=f"{text}; {default} by default")

    add("one-rank-work", 29.7, "measured: seconds of work for the tokens on one rank")
    add("two-rank-work", 37.2, "measured: the same on two ranks, of both")
    add("cpu-tokens", 1024, "measured: tokens of that iteration")
    add("step-us", 7.6, "measured: microseconds of Python per environment and step")
    add("learn-us", 16.2, "measured: microseconds of the buffer per token, at 4 epochs")
    add("rest-ms", 26.1, "measured: milliseconds of callbacks and logging per iteration")
    add("bandwidth", 4.8, "data sheet: TB/s of a GPU's memory")
    add("memory", 141.0, "data sheet: GB of it")
    add("flops", 989.0, "data sheet: bfloat16 TFLOP/s without sparsity")
    add("bandwidth-share", 0.6, "assumed: share of the bandwidth that decoding reaches")
    add("compute-share", 0.35, "assumed: share of the TFLOP/s that updates reach")
    add("launch-us", 300.0, "assumed: microseconds per decoding step beside memory and arithmetic")
    add("network", 25.0, "assumed: GB/s of a GPU's link to another machine")
    add("latency-us", 30.0, "assumed: microseconds of a sum per doubling of the ranks")
    add("jitter", 0.1, "assumed: spread of the times of rollouts (standard deviation of the logarithm)")
    add("token-bytes", 64.0, "assumed: bytes of a token on its way to the learner")
    add("n-envs", 256, "environments per GPU that collects")
    add("n-steps", 128, "tokens of each in a rollout")
    add("context", 384, "mean tokens of a context while a rollout is drawn")
    add("epochs", 4, "epochs of an update")
    add("minibatches", 8, "minibatches per epoch")
    add("trained-share", 0.01, "share of the weights that learns: LoRA")
    add("update-gb", 20.0, "assumed: GB that an update holds beside the weights")
    add("million", 1_000_000, "environments of the last table")
    return found


def main(arguments: Sequence[str] | None = None) -> str:
    """Print the tables, and return them."""
    flags = parser()
    args: Any = flags.parse_args(arguments)
    for name, value in vars(args).items():
        if not math.isfinite(value) or value < 0 or (value == 0 and name != "jitter"):
            flags.error(f"--{name.replace('_', '-')} {value:g}: expected a number above 0")
    largest = max(size for size, *_ in SHAPES.values())
    if args.memory * 0.9 <= 2 * largest / 1e9 + args.update_gb:
        flags.error(f"--memory {args.memory:g} leaves no room for caches beside --update-gb {args.update_gb:g}")
    text = "\n\n".join([cpu_table(args), gpu_table(args), million_table(args)])
    print(text)
    return text


if __name__ == "__main__":
    main()
