"""Imports run one way (docs: architecture), and importing the package stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A part of rlhf_envs may import the parts above it, and its own modules.
ORDER = [
    {"api_keys", "cards", "control_tokens", "files", "names", "words"},
    {"datasets", "models", "overlap", "privacy", "rendering", "task_weights"},
    {"curriculum", "dialogs", "episode_options", "feedback", "tokens"},
    {"chat_format", "rewards"},
    {"pictures"},
    {"preferences", "prompts", "replies", "tasks"},
    {"action_masks", "finished"},
    {"contexts"},
    {"episodes"},
    {"text_env"},
    {"vector_env"},
    {"registration"},
    {"interop"},
    {"testing"},
    {"__init__"},
]
LEVEL = {part: level for level, parts in enumerate(ORDER) for part in parts}
# In agents the left is imported by the right; `scale` and `serving` are rooms for later.
AGENTS = [
    "core",
    "algorithms",
    "registry",
    "saving",
    "evaluation",
    "training",
    "scale",
    "experiments",
    "serving",
    "testing",
    "__init__",
    "cli",
    "__main__",
]


@cache
def parse(text: str) -> ast.Module:
    return ast.parse(text)


def tree_of(path: Path) -> ast.Module:
    return parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """The modules that a file imports, with the line: absolute names, also inside functions, but not for types only."""
    package = path.relative_to(ROOT).parent.parts
    pending: list[ast.AST] = [tree_of(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, module
            if module in ("rlhf_envs", "agents"):
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        pending += ast.iter_child_nodes(node)


def relative_imports(path: Path) -> Iterator[tuple[int, str]]:
    """The relative imports of a file, also inside functions and for types only: what they name, in full."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((node.lineno, ".".join([*base, name])) for name in names)


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def part_of(module: str) -> str:
    """The part that a module belongs to: `rlhf_envs.tasks.base` to tasks, `rlhf_envs` itself to __init__."""
    name = [*module.split("."), "__init__"][1]
    return name if name in LEVEL or (ROOT / "rlhf_envs" / name).exists() else "__init__"


def test_the_parts_of_rlhf_envs_import_upwards_only() -> None:
    parts = {path: path.relative_to(ROOT / "rlhf_envs").parts[0].removesuffix(".py") for path in files("rlhf_envs")}
    assert {*parts.values()} <= LEVEL.keys(), "place each part in ORDER"
    wrong = [
        f"{path}, line {line}: {part} may not import {module}"
        for path, part in parts.items()
        for line, module in imports(path)
        if module.split(".")[0] == "rlhf_envs" and part_of(module) != part and LEVEL[part_of(module)] >= LEVEL[part]
    ]
    assert wrong == []


def test_rlhf_envs_imports_no_learner() -> None:
    learners = ("agents", "stable_baselines3")
    found = [(path, n, module) for path in files("rlhf_envs") for n, module in imports(path)]
    assert [f"{path}, line {n}: {module}" for path, n, module in found if module.split(".")[0] in learners] == []


def test_few_files_stand_at_the_top_of_agents() -> None:
    assert len(list((ROOT / "agents").glob("*.py"))) <= 5


def test_the_parts_of_agents_import_downwards_only() -> None:
    def level(module: str) -> int:
        part = module.split(".")[1]
        return AGENTS.index(part if part in AGENTS else "__init__")  # a name that agents hands on

    parts = {path: path.relative_to(ROOT / "agents").parts[0].removesuffix(".py") for path in files("agents")}
    assert {*parts.values()} <= {*AGENTS}, "place each part in AGENTS"
    wrong = [
        f"{path}, line {n}: {part} may not import {module}"
        for path, part in parts.items()
        for n, module in relative_imports(path)
        if level(module) > AGENTS.index(part)
    ]
    assert wrong == []


def test_agents_imports_itself_relatively() -> None:
    """PyPI's openai-agents owns the same import name: an absolute import could find the other package."""
    absolute = [
        f"{path}, line {node.lineno}"
        for path in files("agents")
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "agents")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "agents" for alias in node.names))
    ]
    assert absolute == [], "write `from .module import name`"


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("agents", "rlhf_envs")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def own_imports(path: Path, modules: Iterable[str], inside: bool = False) -> Iterator[tuple[int, str]]:
    """The modules of this project that a file imports, with the line: also inside functions and for types only.

    Args:
        path: the file.
        modules: the names of the project's modules.
        inside: only imports that stand inside functions.
    """
    package = path.relative_to(ROOT).parent.parts
    tree = tree_of(path)
    places = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)] if inside else [tree]
    for node in {node: None for place in places for node in ast.walk(place)}:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                if (name := f"{module}.{alias.name}") in modules or (name := module) in modules:
                    yield node.lineno, name


def find_cycle(modules: Mapping[str, Path]) -> list[str]:
    """The modules of one import cycle; an `__init__` may hand on what its own modules define."""
    graph = {}
    for name, path in modules.items():
        imported = {module for _, module in own_imports(path, modules)} - {name}
        if path.name == "__init__.py":
            imported = {module for module in imported if not module.startswith(f"{name}.")}
        graph[name] = imported
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_import_cycle_between_files_also_not_inside_functions_or_for_types() -> None:
    assert find_cycle(MODULES) == []


@pytest.mark.parametrize(
    "second",
    [
        "from .a import f\n",
        "import rlhf_envs.a\n",
        "def f():\n    from rlhf_envs import a\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rlhf_envs.a import f\n",
    ],
)
def test_the_cycle_test_sees_what_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    package = tmp_path / "rlhf_envs"
    package.mkdir()
    modules = {"rlhf_envs": package / "__init__.py", "rlhf_envs.a": package / "a.py", "rlhf_envs.b": package / "b.py"}
    for path, text in zip(modules.values(), ("from .a import f\n", "from . import b\n", second), strict=True):
        path.write_text(text)
    assert set(find_cycle(modules)) == {"rlhf_envs.a", "rlhf_envs.b"}
    modules["rlhf_envs.b"].write_text("")
    assert find_cycle(modules) == []


def test_the_chains_of_imports_between_parts_are_short() -> None:
    """At most 9 parts stand above each other in a package, so that a change is felt in few places."""
    for package in ("agents", "rlhf_envs"):
        graph: dict[str, set[str]] = {}
        for name, path in MODULES.items():
            if name.startswith(f"{package}."):
                part = name.split(".")[1]
                names = {m.split(".")[1] for _, m in own_imports(path, MODULES) if m.startswith(f"{package}.")}
                graph.setdefault(part, set()).update(names - {part})
        depth: dict[str, int] = {}
        for part in TopologicalSorter(graph).static_order():
            depth[part] = 1 + max((depth[below] for below in graph.get(part, ())), default=0)
        assert max(depth.values()) <= 9, depth


def test_few_imports_of_own_modules_stand_inside_functions() -> None:
    """They belong at the top of a file, but for files that must load no torch, and optional packages."""
    inside = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in MODULES.values()
        for line in sorted({line for line, _ in own_imports(path, MODULES, inside=True)})
    ]
    assert len(inside) <= 40, f"{len(inside)} imports inside functions: {', '.join(inside)}"


def test_the_import_test_sees_what_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "rlhf_envs" / "rewards" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import hidden\n"
        "def f():\n    from rlhf_envs.text_env import A\n"
        "from ..tasks import base\nfrom . import y\nfrom rlhf_envs import get\nimport agents.core.policy\n"
    )
    assert {module for _, module in imports(path)} == {
        "typing",
        "rlhf_envs.text_env",
        "rlhf_envs.tasks",
        "rlhf_envs.rewards",
        "rlhf_envs",
        "rlhf_envs.get",
        "agents.core.policy",
    }


def test_importing_rlhf_envs_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, gymnasium, rlhf_envs\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'stable_baselines3', 'PIL', 'agents'}\n"
        "print(sorted(heavy & sys.modules.keys()), 'rlhf/Sentiment-v0' in gymnasium.registry)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.strip() == "[] True", done.stderr
