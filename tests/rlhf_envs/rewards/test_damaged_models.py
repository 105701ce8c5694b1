"""Folders of models and reward models that are damaged or forged: a ValueError that names what is wrong, and where."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from packaging.version import Version

from rlhf_envs.models import load_causal_lm, resolve
from rlhf_envs.rewards.ensemble import load_reward

ENSEMBLE = "reward_ensemble.json"
WHOLE: dict[str, Any] = {"shared_trunk": True, "members": 2, "gain": 1.0, "biases": [0.0, 0.0]}


def copy(model: str, to: Path) -> Path:
    return Path(shutil.copytree(resolve(model), to / "model"))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        "{}",
        json.dumps({**WHOLE, "members": 10**12}),
        json.dumps({**WHOLE, "members": "x"}),
        json.dumps({**WHOLE, "gain": []}),
        json.dumps({**WHOLE, "biases": ["x", 0]}),
    ],
)
def test_the_description_of_an_ensemble_is_checked(text: str, tmp_path: Path) -> None:
    (tmp_path / ENSEMBLE).write_text(text)
    with pytest.raises(ValueError, match=rf"{ENSEMBLE} describes no ensemble \(.*the file is damaged"):
        load_reward(tmp_path)


def test_an_ensemble_without_its_heads_is_named(tmp_path: Path) -> None:
    folder = copy("tiny-reward", tmp_path)
    (folder / ENSEMBLE).write_text(json.dumps(WHOLE))
    with pytest.raises(ValueError, match=r"heads\.safetensors holds no heads"):
        load_reward(folder)


# transformers 5.3 takes any value for a token id.
CHECKED = pytest.mark.skipif(Version(transformers.__version__) < Version("5.20"), reason="needs transformers 5.20")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward_gain": "x"}, "reward_gain='x'"),
        ({"hidden_size": 10**9}, "cannot be loaded"),
        pytest.param({"pad_token_id": "x"}, "cannot be loaded .*pad_token_id", marks=CHECKED),
        ({"model_type": "no such type"}, "cannot be loaded"),
    ],
)
def test_a_configuration_that_fits_no_model_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = copy("tiny-reward", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=f"reward model '{folder}'.*{message}"):
        load_reward(folder)


@pytest.mark.parametrize(("model", "load"), [("tiny-reward", load_reward), ("tiny", load_causal_lm)])
def test_weights_that_were_cut_short_are_named(model: str, load: Any, tmp_path: Path) -> None:
    folder = copy(model, tmp_path)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ValueError, match=f"'{folder}' cannot be loaded"):
        load(str(folder))
