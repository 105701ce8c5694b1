"""What is installed, what is pinned, what ships in the wheel, and what must not be in the repository."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOR_CONTRIBUTORS = {"dev", "docs", "test"}  # extras
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MB = 1024 * 1024


def read_project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def list_files(*arguments: str) -> list[Path]:
    """Files that git tracks or would track; an unpacked archive has no such list."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def read_pins(python: str) -> dict[str, str]:
    """The pins of constraints.txt that hold on a Python version: name -> version."""
    pins: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate({"python_version": python}):
                (only,) = pin.specifier
                assert only.operator == "==", f"constraints.txt pins exactly, not {line!r}"
                assert canonicalize_name(pin.name) not in pins, f"two pins of {pin.name} for Python {python}"
                pins[canonicalize_name(pin.name)] = only.version
    return pins


def list_requirements() -> list[Requirement]:
    project = read_project()
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


def test_agents_is_ours_and_not_openai_agents() -> None:
    owners = importlib.metadata.packages_distributions().get("agents", [])
    clash = f"the import name 'agents' is also that of openai-agents: uninstall it here (owners found: {owners})"
    assert set(owners) <= {"rlhf-envs"}, clash
    agents, rlhf_envs = importlib.import_module("agents"), importlib.import_module("rlhf_envs")
    assert agents.__file__ is not None, clash
    assert rlhf_envs.__file__ is not None
    assert Path(agents.__file__).parents[1] == Path(rlhf_envs.__file__).parents[1], f"{clash}; it is {agents.__file__}"


def test_version_is_the_one_of_the_metadata() -> None:
    version = read_project()["version"]
    assert importlib.metadata.version("rlhf-envs") == version, "installed from another checkout? pip install -e ."
    assert importlib.import_module("rlhf_envs").__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_is_pinned_inside_its_range(python: str) -> None:
    pins = read_pins(python)
    for requirement in list_requirements():
        name = canonicalize_name(requirement.name)
        absent = requirement.marker is not None and not requirement.marker.evaluate({"python_version": python})
        if name == "rlhf-envs" or absent:
            continue
        assert name in pins, f"{requirement} has no pin in constraints.txt"
        assert requirement.specifier.contains(pins[name]), f"the pin {name}=={pins[name]} is outside {requirement}"


@pytest.mark.parametrize("page", ["docs/start.md", "docs/zh/start.md"])
def test_the_table_of_extras_has_each_that_adds_something_for_users(page: str) -> None:
    table = [line.split("|")[1] for line in (ROOT / page).read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    named = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    assert set(read_project()["optional-dependencies"]) - FOR_CONTRIBUTORS <= named


def test_extras_refer_to_extras_that_exist() -> None:
    extras = set(read_project()["optional-dependencies"])
    for requirement in list_requirements():
        if requirement.name == "rlhf-envs":
            assert requirement.extras <= extras, f"{requirement} asks for an extra that is not there"


def test_every_extra_that_a_page_or_an_error_says_to_install_exists() -> None:
    extras = set(read_project()["optional-dependencies"])
    files = [path for path in list_files("*.md", "*.py", "*.ipynb") if path != ROOT / "CHANGELOG.md"]
    said = re.compile(r"""pip install [^\n`]*?["'](?:rlhf-envs|\.)\[([\w,]+)\]""")
    groups = [(path, group) for path in files for group in said.findall(path.read_text("utf-8"))]
    named = [(path, extra) for path, group in groups for extra in group.split(",")]
    assert "gguf" in {extra for _, extra in named}, "the pattern finds what the page on exports says"
    assert [f"{path}: {extra}" for path, extra in named if extra not in extras] == []


def test_gguf_comes_with_its_own_extra_and_with_those_that_need_it() -> None:
    extras = read_project()["optional-dependencies"]
    assert [Requirement(line).name for line in extras["gguf"]] == ["gguf"]
    for extra in ("export", "smollm2"):
        assert "gguf" in set().union(*(Requirement(line).extras for line in extras[extra])), extra


def test_constraints_keep_cuda_packages_out() -> None:
    pins = read_pins("3.11")
    assert pins["torch"] == "2.13.0", "without this pin pip takes the newest build of torch and its CUDA packages"
    assert [name for name in pins if re.match(r"nvidia-|cuda-|triton$", name)] == []


def test_oldest_environment_runs_every_lower_bound_but_torchs() -> None:
    """torch 2.8 is Stable-Baselines3's bound. PyPI has no build of it for CPUs, so that tests run with a later one.

    What openenv needs (fastmcp) does not resolve beside the lower bounds of pydantic and fastapi.
    """
    oldest = (ROOT / "tox.ini").read_text(encoding="utf-8").split("[testenv:oldest]")[1].split("[testenv:")[0]
    tested = dict(re.findall(r"^\s+([\w.-]+)==([\d.]+)$", oldest, re.MULTILINE))
    project = read_project()
    extras = [lines for extra, lines in project["optional-dependencies"].items() if extra not in FOR_CONTRIBUTORS]
    for requirement in map(Requirement, sum(extras, project["dependencies"])):
        bounds = {bound.operator: bound.version for bound in requirement.specifier}
        if ">=" in bounds and requirement.name not in ("torch", "openenv"):
            version = tested.get(requirement.name, "nothing")
            assert f"{version}.".startswith(f"{bounds['>=']}."), f"oldest tests {version}, pyproject says {requirement}"


def test_readme_commands_are_there_for_ci_and_quickstart() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    installs = {"run-command": "-c constraints.txt .", "test-command": '-c constraints.txt -e ".[dev]"'}
    for marker, install in installs.items():
        blocks = re.findall(rf"^<!-- {marker} -->\n```\w*\n(.+)\n```$", readme, re.MULTILINE)
        assert len(blocks) == 1, f"README.md needs one block of one line after <!-- {marker} -->, has {len(blocks)}"
        assert f"pip install {install}" in blocks[0]


def test_wheel_ships_every_file_of_both_packages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(ROOT)], check=True, stdin=subprocess.DEVNULL)
    (wheel,) = tmp_path.glob("rlhf_envs-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
        entry_points = next(name for name in shipped if name.endswith("entry_points.txt"))
        assert "rlhf = agents.cli:app" in archive.read(entry_points).decode()
        metadata = archive.read(next(name for name in shipped if name.endswith(".dist-info/METADATA"))).decode()
    links = re.findall(r"\]\(([^)]+)\)", metadata)
    assert links
    assert all(link.startswith(("https://", "#")) for link in links), "PyPI has no repository around the README"
    assert "![" in metadata
    assert "raw.githubusercontent.com" in metadata
    assert {"rlhf_envs/py.typed", "agents/py.typed"} <= shipped
    notices = {name.partition(".dist-info/licenses/")[2] for name in shipped if ".dist-info/licenses/" in name}
    wanted = {path.relative_to(ROOT).as_posix() for path in list_files("*LICENSE", "*/SOURCES.md")}
    assert wanted <= notices, f"not among license-files: {sorted(wanted - notices)}"
    missing = {path.relative_to(ROOT).as_posix() for path in list_files("rlhf_envs", "agents")} - shipped
    assert not missing, f"in the checkout, not in the wheel: {sorted(missing)}"
    assert {name.split("/")[0] for name in shipped if ".dist-info" not in name} == {"rlhf_envs", "agents"}
    assert wheel.stat().st_size < 24_600_000  # samples of eleven tasks, and models: see the CHANGELOG, Decided


def test_tracked_files_stay_small() -> None:
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in list_files()}
    large = {name: f"{size / MB:.1f} MB" for name, size in sizes.items() if size > 10 * MB}
    assert not large, f"larger than 10 MB: {large}"
    assert sum(sizes.values()) < 35.3 * MB


def test_tracked_text_names_no_machine_and_no_registry() -> None:
    # Written so that the patterns do not match themselves.
    paths = rb"(?<![\w.])/(?:work|root|home|Users|opt/(?:wheels|pypi))/\w"
    unwanted = re.compile(paths + rb"|--(?:extra-)?index-url|--find-[l]inks|/whl/(?:cpu|cu)\b")
    for path in list_files():
        content = path.read_bytes()
        if b"\0" not in content[:8192]:
            found = unwanted.search(content)
            where = f"{path.relative_to(ROOT)}:{content[: found.start()].count(10) + 1}" if found else ""
            assert found is None, f"{where}: {found.group().decode() if found else ''}"


def test_python_versions_agree() -> None:
    project = read_project()
    declared = {line.rsplit(" ", 1)[1] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert declared == set(PYTHONS)
    requires = SpecifierSet(project["requires-python"])
    assert all(requires.contains(python) for python in PYTHONS)
