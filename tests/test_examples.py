"""Every example runs as a user runs it, only shorter, and is judged by its numbers and files."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import agents
from agents import TrainConfig
from rlhf_envs.datasets import load_rows
from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.annotating import Response, work
from rlhf_envs.models import load_causal_lm

EXAMPLES = Path(__file__).parents[1] / "examples"
MOST = 16  # environments: a rollout of more takes most of the time
NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?"
ESTIMATE = rf"({NUMBER}) ± {NUMBER}"


def number(text: str) -> float:
    return float(text.replace(",", ""))


def check_quickstart(example: dict[str, Any], printed: str, folder: Path) -> None:
    model = example["model"]
    assert model.num_timesteps == MOST * 32  # one rollout, the least that covers 64 tokens
    before, after = load_causal_lm("tiny").state_dict(), model.policy.state_dict()
    name = next(name for name in before if name.endswith("attn.c_attn.weight"))
    learned = next(value for key, value in after.items() if key.endswith(name))
    assert not torch.equal(learned, before[name])
    prompts = {str(row["prompt"]).lower() for row in load_rows("sentiment", "test")}
    lines = [line.split(" ->") for line in printed.splitlines() if " ->" in line]
    assert len(lines) == 4
    assert all(prompt in prompts and completion for prompt, completion in lines)


def check_custom_reward(example: dict[str, Any], printed: str, folder: Path) -> None:
    found = {
        name: (number(old), number(new))
        for name, old, new in re.findall(rf"^(\S+) +{ESTIMATE}  ->  {ESTIMATE}", printed, re.M)
    }
    weights = {"reward_mentions": 2.0, "reward_brevity": 1.0, "reward_tiny-reward": 0.2}
    for when in (0, 1):  # the reward is the weighted sum of its components, rounded as printed
        total = sum(weight * found[name][when] for name, weight in weights.items())
        assert found["reward"][when] == pytest.approx(total, abs=0.003)
        assert 0 <= found["reward_mentions"][when] <= 1
    assert found["kl"][0] == 0 < found["kl"][1]


def check_custom_task(example: dict[str, Any], printed: str, folder: Path) -> None:
    shares = re.search(rf"{ESTIMATE}  ->  {ESTIMATE}", printed)
    assert shares and all(0 <= number(share) <= 1 for share in shares.groups())
    samples = re.findall(r"^(\d\.\d\d)  (.+?) \|(.*)$", printed, re.M)
    letters = {row["prompt"]: row["letter"] for row in example["Alliteration"]().rows("test", None)}
    assert len(samples) == 5 == len({prompt for _, prompt, _ in samples})
    rewards = example["alliteration"]([text for *_, text in samples], [letters[prompt] for _, prompt, _ in samples])
    assert [float(score) for score, *_ in samples] == pytest.approx(rewards, abs=0.0051)


def check_hacking_without_kl_penalty(example: dict[str, Any], printed: str, folder: Path) -> None:
    cells = [re.findall(ESTIMATE, line) for line in printed.splitlines() if " ± " in line]
    assert len(cells) == 2 and all(len(row) == len(example["FIGURES"]) for row in cells)
    kls = [number(row[list(example["FIGURES"]).index("kl")]) for row in cells]
    assert kls[0] == 0 < kls[1]
    share = re.search(r"orders ([\d.]+)% of held-out", printed)
    assert share and 0 < float(share[1]) < 100


def check_people_in_the_loop(example: dict[str, Any], printed: str, folder: Path) -> None:
    with FeedbackStore(folder / "people_in_the_loop.db") as store:
        judged = Counter(judgement.item_id for judgement in store.judgements())
        assert sorted(judged) == sorted(item.id for item in store.items())
    assert len(judged) == 8 and set(judged.values()) == {3}  # 8 pairs, three annotators each
    assert (folder / "people_in_the_loop.png").read_bytes().startswith(b"\x89PNG")
    learned = [
        [number(value) for value in re.findall(ESTIMATE, line)] for line in printed.splitlines() if "tokens:" in line
    ]
    assert len(learned) == 2 and all(0 <= gold <= 1 for _, gold in learned)


def check_tensorboard_compare(example: dict[str, Any], printed: str, folder: Path) -> None:
    tags = {}
    for algo in ("ppo", "a2c"):
        events = EventAccumulator(str(folder / "logs" / "compare" / algo / "Sentiment-v0_1")).Reload()
        tags[algo] = {tag for tag in events.Tags()["scalars"] if tag.startswith("rlhf/")}
        report = json.loads((folder / "logs" / "compare" / algo / "Sentiment-v0_1" / "report.json").read_text())
        assert report["n_timesteps"] >= 64
    assert tags["ppo"] == tags["a2c"] >= {"rlhf/kl", "rlhf/reward"}


def check_dialog_task(example: dict[str, Any], printed: str, folder: Path) -> None:
    sums = re.findall(rf"^(ppo|rloo): sum of three ratings {ESTIMATE}  ->  {ESTIMATE}", printed, re.M)
    assert [algo for algo, *_ in sums] == ["ppo", "rloo"]
    assert all(0 <= number(value) <= 3 for _, *values in sums for value in values)
    assert re.findall(r"^  (\w+): ", printed, re.M)[0] == "assistant"


def check_mixture(example: dict[str, Any], printed: str, folder: Path) -> None:
    found = re.findall(rf"^(\S+) +{ESTIMATE}  ->  {ESTIMATE}", printed, re.M)
    assert [name for name, *_ in found] == ["sentiment/reward", "sentiment/gold", "brief/reward", "kl"]
    changes = {name: number(new) - number(old) for name, old, new in found}
    assert changes["kl"] > 0
    assert all(number(value) <= 0 for name, *values in found if name == "brief/reward" for value in values)


def check_person_in_the_dialog(example: dict[str, Any], printed: str, folder: Path) -> None:
    assert re.search(r"^\d+ dialogs, their last ratings in sum: ", printed, re.M)
    typed = iter(["good", "nan", "2", " 0.5"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.input", lambda question: next(typed))
        assert example["ask_for_number"]("rating?") == 0.5, "anything else is asked for again"


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}


def test_every_example_is_run() -> None:
    assert set(CHECKS) == {path.stem for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("name", sorted(CHECKS))
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


def make_few(make: Callable[..., Any], n: int, most: int) -> Callable[..., Any]:
    """Return `make` with at most so many environments: their number is its argument at place `n`, or `n_envs`."""

    def made(*given: Any, **kwargs: Any) -> Any:
        kwargs |= {"n_envs": min(kwargs["n_envs"], most)} if "n_envs" in kwargs else {}
        return make(*given[:n], *(min(count, most) for count in given[n:]), **kwargs)

    return made


@pytest.mark.usefixtures("_registry_restored")
@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
@pytest.mark.parametrize("name", sorted(CHECKS))
def test_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # what they write
    small = {"hacking_without_kl_penalty": ["64", "0", "8"], "people_in_the_loop": ["64", "8"]}
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *small.get(name, ["64"])])
    monkeypatch.setattr("builtins.input", lambda question: "1" if "rating" in question else "why")  # a person
    monkeypatch.setattr(agents, "make", make_few(agents.make, 2, MOST))
    monkeypatch.setattr(agents, "make_vec_env", make_few(agents.make_vec_env, 1, MOST))
    evaluate = agents.evaluate
    monkeypatch.setattr(agents, "evaluate", lambda *given, **kwargs: evaluate(*given, **{**kwargs, "n_episodes": 16}))
    few = {"test_episodes": 16, "n_envs": MOST}
    monkeypatch.setattr(agents, "TrainConfig", lambda **kwargs: TrainConfig(**{**kwargs, **few}))
    example = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    CHECKS[name](example, capsys.readouterr().out, tmp_path)


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `people_in_the_loop` defines, in a folder of its own."""
    pytest.importorskip("uvicorn", reason="the page needs the extra web")
    monkeypatch.chdir(tmp_path)
    return runpy.run_path(str(EXAMPLES / "people_in_the_loop.py"))


def test_a_person_may_skip_and_ends_the_wait(
    people: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FeedbackStore(people["STORE"]) as store:
        store.add_items([NewItem("pairwise", prompt, (" x", " y")) for prompt in "abc"])
        answers, said = iter([{"choice": 0}, None, {"choice": 1}]), threading.Event()

        def tell(*words: Any, **how: Any) -> None:
            print(*words, **how)
            said.set()

        def answer() -> None:
            said.wait(60)
            work(store, "ada", lambda _: Response(next(answers)))

        monkeypatch.setitem(people["wait_for_a_person"].__globals__, "print", tell)
        person = threading.Thread(target=answer)
        person.start()
        people["wait_for_a_person"](store)
        person.join()
    printed = capsys.readouterr().out
    assert "0 of 3 pairs are done" in printed
    assert printed.endswith("3 of 3 pairs are done\n")


def test_a_page_that_ends_is_not_waited_for(people: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with FeedbackStore(people["STORE"]) as store:
        store.add_items([NewItem("pairwise", "a", (" x", " y"))])
        with pytest.raises(SystemExit, match="the page has ended"):
            people["wait_for_a_person"](store)


def test_another_run_asks_about_other_prompts(people: dict[str, Any]) -> None:
    """Else the pairs that are held out have copies among those that are fitted to."""
    with FeedbackStore(people["STORE"]) as store:
        for _ in range(2):
            people["ask"](store, "tiny", 6, 1)
        prompts = [item.prompt for item in store.items()]
    assert len(set(prompts)) == 12
