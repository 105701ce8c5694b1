"""Every example runs as a user runs it, only shorter."""

from __future__ import annotations

import importlib
import runpy
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SAYS = {
    "quickstart": "->",
    "custom_reward": "reward_mentions",
    "custom_task": "share of alliterating words",
    "hacking_without_leash": "| proxy | gold |",
    "people_in_the_loop": "people_in_the_loop.png shows",
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
    importlib.import_module("rlhf_envs")  # what it registers stays
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
    small = {"hacking_without_leash": ["64", "0", "8"], "people_in_the_loop": ["64", "8"]}
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *small.get(name, ["64"])])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert SAYS[name] in capsys.readouterr().out


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `people_in_the_loop` defines, in a folder of its own."""
    pytest.importorskip("uvicorn", reason="the page needs the extra web")
    monkeypatch.chdir(tmp_path)
    return runpy.run_path(str(EXAMPLES / "people_in_the_loop.py"))


def test_a_person_may_skip_and_ends_the_wait(people: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    from rlhf_envs.feedback import FeedbackStore, NewItem
    from rlhf_envs.feedback.annotating import Response, work

    with FeedbackStore(people["STORE"]) as store:
        store.add_items([NewItem("pairwise", prompt, (" x", " y")) for prompt in "abc"])
        answers = iter([{"choice": 0}, None, {"choice": 1}])
        person = threading.Timer(1.5, lambda: work(store, "ada", lambda _: Response(next(answers))))
        person.start()
        people["wait_for_a_person"](store)
        person.join()
    printed = capsys.readouterr().out
    assert "0 of 3 pairs are done" in printed
    assert printed.endswith("3 of 3 pairs are done\n")


def test_a_page_that_ends_is_not_waited_for(people: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf_envs.feedback import FeedbackStore, NewItem

    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with FeedbackStore(people["STORE"]) as store:
        store.add_items([NewItem("pairwise", "a", (" x", " y"))])
        with pytest.raises(SystemExit, match="the page has ended"):
            people["wait_for_a_person"](store)


def test_another_run_asks_about_other_prompts(people: dict[str, Any]) -> None:
    """Else the pairs that are held out have copies among those that are fitted to."""
    from rlhf_envs.feedback import FeedbackStore

    with FeedbackStore(people["STORE"]) as store:
        for _ in range(2):
            people["ask"](store, "tiny", 6, 1)
        prompts = [item.prompt for item in store.items()]
    assert len(set(prompts)) == 12
