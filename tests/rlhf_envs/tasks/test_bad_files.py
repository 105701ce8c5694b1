"""Every task names what is wrong with a file, and works without the packages of extras or names the extra."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import gymnasium as gym
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rlhf_envs.registration import ENVIRONMENTS, task_of
from rlhf_envs.tasks.base import WordTask

READ_FILES = [e for e in ENVIRONMENTS if e != "rlhf/Mixture-v0" and not isinstance(task_of(e), WordTask)]
FILES = {
    "empty.jsonl": (b"", r"empty.jsonl: there are no rows"),
    "header.csv": (b"prompt,label\n", r"header.csv: there are no rows"),
    "wrong.csv": (b"words,kind\nhello,good\nbye,bad\n", r"wrong.csv:2: no column 'prompt' \(it has: words, kind\)"),
    "latin.csv": ("prompt\ncafé\nbye\n".encode("latin-1"), r"latin.csv:2: byte 0xe9 is not UTF-8"),
    "chinese.csv": ("prompt\n很好\n不好\n".encode("gb18030"), r"chinese.csv:2: byte 0x\w\w is not UTF-8"),
}
COME_WITH_CORE = {"httpx2", "jinja2", "pygments"}  # with huggingface-hub, torch and rich
PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
NEEDS = {
    "rlhf/Translate-v0": "pip install 'rlhf-envs[translate]'",
    "rlhf/OpenEnv-v0": "pip install 'rlhf-envs[openenv]'",
}
PLAY = """
import json, sys
from importlib.machinery import PathFinder
hidden = set(json.loads(sys.argv[1]))
find = PathFinder.find_spec
hide = lambda name, *rest: None if name.split(".")[0] in hidden else find(name, *rest)
PathFinder.find_spec = staticmethod(hide)
import gymnasium, rlhf_envs
found = {}
for env_id in json.loads(sys.argv[2]):
    try:
        env = gymnasium.make(env_id, disable_env_checker=True)
        env.reset(seed=0)
        env.step(env.unwrapped.tokenizer.eos_token_id)
    except Exception as error:
        found[env_id] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


@pytest.mark.parametrize("env_id", READ_FILES)
def test_a_bad_file_is_named_with_its_line_and_its_columns(env_id: str, tmp_path: Path) -> None:
    for name, (content, message) in FILES.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            gym.make(env_id, data=str(path))


def names(requirements: Iterable[str]) -> set[str]:
    return {str(canonicalize_name(Requirement(line).name)) for line in requirements}


def test_every_task_plays_without_the_packages_of_extras_or_names_the_command() -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    given = [lines for extra, lines in project["optional-dependencies"].items() if extra not in ("dev", "docs", "test")]
    core, extras = names(project["dependencies"]), names(chain(*given))
    hidden = sorted(
        name
        for name, owners in packages_distributions().items()
        if {canonicalize_name(owner) for owner in owners} <= extras - core - COME_WITH_CORE
    )
    assert {"accelerate", "peft", "sacrebleu", "sqlalchemy"} <= {*hidden}
    arguments = [json.dumps(hidden), json.dumps([*ENVIRONMENTS])]
    done = subprocess.run([sys.executable, "-c", PLAY, *arguments], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {*found} == {*NEEDS}, found
    for env_id, command in NEEDS.items():
        assert command in found[env_id]
