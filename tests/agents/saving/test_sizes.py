"""Files that claim to be huge: they are refused by their size, before they are read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agents
from agents.saving.folders import read_config
from rlhf_envs.files import MAX_JSON, BundleError

BANDIT = "rlhf/TokenBandit-v0"
HUGE = 10**11


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "bundle"
    agent = agents.make("ppo", agents.make_vec_env(BANDIT, 2), device="cpu", n_steps=4, batch_size=8)
    agents.save(agent, folder)
    return folder


def forge(saved: Path, folder: Path, name: str, change: Callable[[Any], None]) -> Path:
    """Copy a bundle, change one of its JSON files, and make its checksum right again."""
    forged = Path(shutil.copytree(saved, folder / "forged"))
    content = json.loads((forged / name).read_text())
    change(content)
    (forged / name).write_text(json.dumps(content))
    sign(forged, name)
    return forged


def sign(folder: Path, name: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name]["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["manifest.json", "agent.json", "model/config.json", "model/tokenizer.json"])
def test_json_that_is_too_large_is_not_read(
    name: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf_envs.files.MAX_JSON", 2**20)
    forged = Path(shutil.copytree(saved, tmp_path / "forged"))
    (forged / name).write_text((forged / name).read_text() + " " * 2**20)
    if name != "manifest.json":
        sign(forged, name)
    size = (forged / name).stat().st_size
    with pytest.raises(BundleError, match=rf"{Path(name).name} has {size:,} bytes, and at most 1,048,576 are read"):
        agents.load(forged)


def test_a_runs_configuration_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    os.truncate(tmp_path / "config.json", MAX_JSON + 1)  # a sparse file: it takes no room
    with pytest.raises(BundleError, match=rf"config\.json has {MAX_JSON + 1:,} bytes"):
        read_config(tmp_path)


@pytest.mark.parametrize("offsets", [[0, 4 * HUGE], [0, 4]])
def test_tensors_that_claim_more_than_the_file_has_are_refused(offsets: list[int], saved: Path, tmp_path: Path) -> None:
    forged = Path(shutil.copytree(saved, tmp_path / "forged"))
    header = json.dumps({"x": {"dtype": "F32", "shape": [HUGE], "data_offsets": offsets}}).encode()
    (forged / "policy.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"0000")
    sign(forged, "policy.safetensors")
    with pytest.raises(BundleError, match=r"policy\.safetensors|agent\.json"):
        agents.load(forged)


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"n_layer": HUGE}, "describes 100,000,000,000 blocks"),
        ({"vocab_size": HUGE}, r"describes [\d,]{15,} weights"),
    ],
)
def test_a_model_larger_than_its_weights_is_never_built(
    change: dict[str, int], claim: str, saved: Path, tmp_path: Path
) -> None:
    size = (saved / "policy.safetensors").stat().st_size

    def enlarge(config: dict[str, Any]) -> None:
        assert change.keys() <= config.keys()
        config.update(change)

    forged = forge(saved, tmp_path, "model/config.json", enlarge)
    with pytest.raises(BundleError, match=rf"{claim}, and .*policy\.safetensors has {size:,} bytes"):
        agents.load(forged)


@pytest.mark.parametrize(("part", "name"), [("env", "num_envs"), ("model", "length"), ("model", "n_actions")])
def test_numbers_that_would_fill_the_memory_are_refused(part: str, name: str, saved: Path, tmp_path: Path) -> None:
    forged = forge(saved, tmp_path, "agent.json", lambda described: described[part].update({name: HUGE}))
    with pytest.raises(BundleError, match=rf"agent\.json: {part}.*{name}: Input should be less than"):
        agents.load(forged)


def test_a_zip_that_unpacks_to_much_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("policy.pth", bytes(2**20))
    with pytest.raises(
        BundleError, match=rf"agent\.zip has {path.stat().st_size:,} bytes, and 1,048,576 once unpacked"
    ):
        agents.load(path, algorithm="ppo", trust_pickle=True)
