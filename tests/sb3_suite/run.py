"""Runs the test-suites of Stable-Baselines3 and sb3-contrib, from their source distributions, against this project.

    python tests/sb3_suite/run.py [--sdists FOLDER] [--suite NAME] [pytest's arguments]

pip fetches the source distributions of the versions that are installed into a temporary folder, unless they are in
FOLDER. The tests run outside the repository, with `plugin.py` for what they test and `reasons.py` for what cannot pass.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

from reasons import FILES

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdists", type=Path, help="a folder with the source distributions, instead of pip")
    parser.add_argument("--suite", choices=sorted(FILES), help="one suite instead of both")
    arguments, rest = parser.parse_known_args()
    codes = []
    for suite in [arguments.suite] if arguments.suite else sorted(FILES, reverse=True):
        with tempfile.TemporaryDirectory() as folder:
            archive = find(suite, arguments.sdists) if arguments.sdists else fetch(suite, Path(folder))
            codes.append(run(suite, unpack(archive, Path(folder)), rest))
    return max(codes)


def fetch(suite: str, folder: Path) -> Path:
    """Have pip download the source distribution of the installed version."""
    requirement = f"{suite}=={version(suite)}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", suite, "--dest", str(folder)]
    result = subprocess.run([*command, requirement], capture_output=True, text=True)
    if result.returncode != 0:
        print(result.stderr or result.stdout, file=sys.stderr)
        sys.exit(
            f"sb3-suite: pip could not fetch the source distribution of {requirement} (above is what it says). "
            "It needs a package index; without one, give the folder of a copy: tox -e sb3-suite -- --sdists FOLDER"
        )
    return find(suite, folder)


def find(suite: str, folder: Path) -> Path:
    """The source distribution in a folder."""
    name = f"{suite.replace('-', '_')}-{version(suite)}.tar.gz"
    if not (folder / name).is_file():
        sys.exit(f"sb3-suite: there is no {name} in {folder}; it must be the version that is installed")
    return folder / name


def unpack(archive: Path, folder: Path) -> Path:
    """Extract the tests and pytest's settings, and not the sources: what is tested is what is installed."""
    with tarfile.open(archive) as tar:
        wanted = [m for m in tar if m.name.split("/")[1:2] in (["tests"], ["pyproject.toml"])]
        tar.extractall(folder, members=wanted, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def run(suite: str, folder: Path, rest: list[str]) -> int:
    """Run the chosen files of a suite in a pytest of their own, and return its exit code."""
    named = any(argument.startswith("tests/") for argument in rest)
    chosen = [] if named else [f"tests/test_{name}.py" for name in FILES[suite]]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not expensive"]
    command += ["-p", "sb3_suite.plugin", "--sb3-suite", suite]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "HF_HUB_OFFLINE": "1"}
    print(f"{suite} {version(suite)}: {' '.join(FILES[suite])}", flush=True)
    return subprocess.run([*command, *chosen, *rest], cwd=folder, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
