"""Measure what the sandbox of `rlhf/Code-v0` costs: `python -m benchmarks.tasks.sandbox`.

It runs the solutions of the test split against all their tests, in batches of several sizes, and prints CPU seconds per
program, all processes together, and how many programs a second that is on one CPU.
"""

from __future__ import annotations

import resource

from rlhf_envs.tasks.code.sandbox import Program, run_programs
from rlhf_envs.tasks.code.task import Code

SIZES = (1, 16, 64, 166)


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of all that it waited for."""
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    programs = [
        Program(row["stub"] + row["reference"], "f", [test["args"] for test in (*row["tests"], *row["other_tests"])])
        for row in Code().rows("test", None)
    ]
    print("| programs in a batch | CPU ms per program | programs per CPU second |\n|---|---|---|")
    for size in SIZES:
        before = cpu_seconds()
        outcomes = run_programs(programs[:size])
        taken = (cpu_seconds() - before) / size
        assert all(one.error is None for calls in outcomes for one in calls)
        print(f"| {size} | {1000 * taken:.1f} | {1 / taken:.0f} |")


if __name__ == "__main__":
    main()
