"""Resolve rlhf-envs beside the engines that people run with it, and print a table; nothing is installed.

    tox -e engines

Resolved for Linux and Python 3.12, from wheels alone. OpenRLHF stands by its own pins: its flash-attn has no wheel.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENGINES = (
    "vllm==0.33.0",
    "verl==0.9.1",
    "skyrl==0.4.0",
    "unsloth==2026.10.9",
    "transformers==5.15.0 ray[default]==2.55.0",
    "transformers==5.3.0",
    "torch==2.8.0",
    "gymnasium==1.2.2",
    "fastapi<0.137",
)
EXTRAS = ("train", "web")
SHOWN = ("transformers", "torch", "gymnasium", "fastapi", "datasets", "peft", "typer")
TARGET = ("--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_39", "--only-binary", ":all:")


def resolve(engine: str) -> dict[str, str]:
    """Return the versions that go with an engine.

    Raises:
        SystemExit: there are none, with uv's explanation.
    """
    extras = [argument for extra in EXTRAS for argument in ("--extra", extra)]
    command = ["uv", "pip", "compile", "--quiet", "--no-annotate", *TARGET, *extras, "pyproject.toml", "-"]
    done = subprocess.run(command, input=engine.replace(" ", "\n"), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"rlhf-envs[{','.join(EXTRAS)}] does not resolve beside {engine!r}:\n{done.stderr}")
    return dict(re.findall(r"^([\w.-]+)==([\w.+]+)", done.stdout, re.MULTILINE))


def main() -> None:
    """Print one row per engine."""
    print("| beside | " + " | ".join(SHOWN) + " |\n|---|" + "---|" * len(SHOWN))
    for engine in ENGINES:
        versions = resolve(engine)
        print(f"| `{engine}` | " + " | ".join(versions[name] for name in SHOWN) + " |", flush=True)


if __name__ == "__main__":
    main()
