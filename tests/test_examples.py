"""Every example runs as a user runs it, only shorter."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SAYS = {
    "quickstart": "->",
    "custom_reward": "reward_mentions",
    "custom_task": "share of alliterating words",
    "hacking_without_leash": "| proxy | gold |",
    "tensorboard_compare": "tensorboard --logdir",
}


def test_every_example_is_run() -> None:
    assert set(SAYS) == {path.stem for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("name", sorted(SAYS))
def test_examples_are_short(name: str) -> None:
    lines = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= (15 if name == "quickstart" else 99)


@pytest.fixture
def _registry_restored() -> Iterator[None]:
    before = set(gym.registry)
    yield
    for env_id in set(gym.registry) - before:
        del gym.registry[env_id]


@pytest.mark.usefixtures("_registry_restored")
@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
@pytest.mark.parametrize("name", sorted(SAYS))
def test_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # what they write
    small = {"hacking_without_leash": ["64", "0", "8"]}
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *small.get(name, ["64"])])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert SAYS[name] in capsys.readouterr().out
