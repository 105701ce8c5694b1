"""Bundles whose checksums fit and whose contents are damaged or forged: one kind of error, which names the file."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import agents
from agents.saving.folders import read_config
from agents.saving.loading import load_policy
from rlhf_envs.files import BundleError

BANDIT = "rlhf/TokenBandit-v0"
VALUES = st.sampled_from([None, True, -1, 0, 3, 1.5, "", "x", [], {}, [[1]], {"$": "array", "key": "x"}, {"$": "x"}])
TENSORS = ("policy.safetensors", "optimizer.safetensors", "state.safetensors")
FUZZ = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "bundle"
    agent = agents.make("ppo", agents.make_vec_env(BANDIT, 2), device="cpu", n_steps=4, batch_size=8)
    agents.save(agent.learn(8), folder)
    return folder


def sign(folder: Path) -> None:
    """Make the checksums right."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        manifest["files"][name]["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    if at:
        yield at
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*at, key))


def change(content: Any, at: tuple[Any, ...], value: Any, delete: bool) -> None:
    for key in at[:-1]:
        content = content[key]
    if delete:
        del content[at[-1]]
    else:
        content[at[-1]] = value


def open_forged(folder: Path) -> None:
    """Load an agent and a policy: it works, or the error is the documented one.

    A ValueError that is no BundleError says what has to be passed, or which state does not fit the environment.
    """
    for load in (agents.load, load_policy):
        found: ValueError | None = None
        try:
            load(folder)
        except ValueError as error:
            found = error
        assert not isinstance(found, BundleError) or f"{folder}/" in str(found)


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_a_changed_description_gives_the_documented_error(data: st.DataObject, saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "forged", dirs_exist_ok=True))
    described = json.loads((saved / "agent.json").read_text())
    at = data.draw(st.sampled_from(list(places(described))))
    change(described, at, data.draw(VALUES), data.draw(st.booleans()))
    (folder / "agent.json").write_text(json.dumps(described))
    sign(folder)
    open_forged(folder)


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_a_changed_header_of_tensors_gives_the_documented_error(
    data: st.DataObject, saved: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "forged", dirs_exist_ok=True))
    file = folder / data.draw(st.sampled_from(TENSORS))
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    at = data.draw(st.sampled_from(list(places(header))))
    change(header, at, data.draw(VALUES), data.draw(st.booleans()))
    new = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", data.draw(st.sampled_from([len(new), 2**62, 3]))) + new + content[8 + length :])
    sign(folder)
    open_forged(folder)


@pytest.mark.parametrize("at", [("attributes", "gamma"), ("buffer_state",), ("generators", "torch")])
def test_a_value_that_is_never_written_is_named_with_its_file(at: tuple[str, ...], saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "forged"))
    described = json.loads((folder / "agent.json").read_text())
    change(described["values"], at, {"$": "x"}, False)
    (folder / "agent.json").write_text(json.dumps(described))
    sign(folder)
    with pytest.raises(BundleError, match=rf"agent\.json does not describe.*{at[-1]} is .*no bundle of ours"):
        agents.load(folder)


def test_a_strange_name_in_the_optimizers_state_is_named_with_its_file(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "forged"))
    state = load_file(folder / "optimizer.safetensors")
    save_file({f"x{name}": value for name, value in state.items()}, folder / "optimizer.safetensors")
    sign(folder)
    with pytest.raises(BundleError, match=r"optimizer\.safetensors is the state of another optimizer"):
        agents.load(folder)


@pytest.mark.parametrize("name", ["agent.json", "manifest.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", '"x"', "{", "\x00", '{"files": 3}', '{"files": {}}'])
def test_json_of_another_form_is_named(name: str, text: str, saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "forged"))
    (folder / name).write_text(text)
    if name == "agent.json":
        sign(folder)
    with pytest.raises(BundleError, match=r"agent\.json|manifest\.json|is of the format"):
        agents.load(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", "{"])
def test_a_runs_configuration_of_another_form_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is "):
        read_config(tmp_path)


def test_the_field_is_named(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "forged"))
    described = json.loads((folder / "agent.json").read_text())
    described["env"]["num_envs"] = "many"
    (folder / "agent.json").write_text(json.dumps(described))
    sign(folder)
    with pytest.raises(BundleError, match=r"agent\.json: env\..*num_envs: .*got 'many'"):
        agents.load(folder)
    del described["env"]["num_envs"]
    (folder / "agent.json").write_text(json.dumps(described))
    sign(folder)
    with pytest.raises(BundleError, match=r"agent\.json: env\..*num_envs: Field required"):
        agents.load(folder)
