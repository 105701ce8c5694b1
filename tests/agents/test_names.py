"""The public names of `agents`: one table, which says where each is imported from when it is first used."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import agents


def test_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    tree = ast.parse(Path(agents.__file__).read_text(encoding="utf-8"))
    imported = [
        (alias.asname, node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    ]
    assert sorted(imported) == sorted((name, home, name) for name, home in agents._HOMES.items())
    assert agents.__all__ == sorted(agents._HOMES)


@pytest.mark.parametrize("name", agents.__all__)
def test_every_name_is_what_its_module_exports(name: str) -> None:
    module = importlib.import_module(f"agents.{agents._HOMES[name]}")
    assert getattr(agents, name) is getattr(module, name)
    assert name in module.__all__
    assert name in dir(agents)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'agents' has no attribute 'ppo2'"):
        _ = agents.ppo2


def test_importing_agents_imports_no_torch() -> None:
    code = "import sys, agents; dir(agents); print({'torch', 'gymnasium', 'stable_baselines3'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
