"""Run what README's first command runs after installing, with this interpreter's packages, and time it.

The command is read from the fenced block after `<!-- run-command -->`. Its installing part must be a plain
`pip install -c constraints.txt .`, which whoever calls this script (`tox -e quickstart`) has done already.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^<!-- run-command -->\n+```\w*\n(.+?)\n```$", re.MULTILINE | re.DOTALL)


def read_steps(readme: str) -> list[str]:
    """Return the steps of the README's first command.

    Raises:
        SystemExit: there is no such block, or it does not install the project without extras.
    """
    found = BLOCK.search(readme)
    if found is None:
        raise SystemExit("README.md has no fenced block after <!-- run-command -->")
    steps = [step.strip() for step in found.group(1).split("&&")]
    if not any(step.endswith("pip install -c constraints.txt .") for step in steps):
        raise SystemExit(f"README's first command does not install with 'pip install -c constraints.txt .': {steps}")
    return steps


def main() -> int:
    """Run the last step in an empty folder; fail on a non-zero exit or past the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=float, default=90.0, help="seconds allowed (default 90)")
    limit = parser.parse_args().limit
    program, *arguments = read_steps((ROOT / "README.md").read_text(encoding="utf-8"))[-1].split()
    command = [str(Path(sysconfig.get_path("scripts")) / Path(program).name), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        try:
            status = subprocess.run(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                timeout=2 * limit,
                env=os.environ | {"HF_HUB_OFFLINE": "1"},
            ).returncode
        except subprocess.TimeoutExpired:
            status = 1
        seconds = time.perf_counter() - start
    print(f"{' '.join(command)}: exit status {status}, {seconds:.1f} s of {limit:.0f} s")
    return status or int(seconds > limit)


if __name__ == "__main__":
    sys.exit(main())
