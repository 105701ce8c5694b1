"""The settings that `rlhf train` takes where none are given: one YAML file an environment, a section an algorithm.

As in rl_zoo3, where they are one file an algorithm. Ours are in `agents/training/settings/`, named after the
environment; a file says under `environments` which ones it is for. A section `any` is for the algorithms that have
none. `n_timesteps` counts tokens; everything else is what `agents.make` takes. Those of `ppo` and `a2c` are tuned so
that a run learns in about a minute on two cores; the others start from them, most were tried on one seed, and those of
`nlpo`, `maskable_ppo`, `dqn`, `qrdqn` and `ilql` are hardly tuned.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["default_hyperparams", "read_settings", "write_section"]

FOLDER = Path(__file__).parent / "settings"
ENVIRONMENTS, ANY = "environments", "any"
OF_THE_RUN = ("n_timesteps", "n_envs")


def default_hyperparams(env_id: str, algo: str, file: str | Path | None = None) -> dict[str, Any]:
    """The settings for an environment and an algorithm; those for any where the table has none. A copy.

    Args:
        env_id: the environment's id, without a module.
        algo: the algorithm's name.
        file: a user's YAML file, instead of ours: nothing of ours is taken then.

    Raises:
        ValueError: the user's file is wrong, is not for this environment, or has no section for the algorithm.
    """
    if file is not None:
        return _of_user(Path(file), env_id, algo)
    sections = _ours().get(env_id, {})
    return dict(sections.get(algo) or sections.get(ANY) or read_settings(FOLDER / "any.yml")[1][ANY])


def read_settings(file: str | Path) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The environments that a file is for (none: any), and its settings by algorithm.

    Only plain YAML is read (`yaml.safe_load`): no tag makes an object, nothing is evaluated. Numbers such as 1e-4, text
    to YAML 1.1, are numbers.

    Raises:
        ValueError: the file is missing or no YAML, a name stands twice, a section is of an unknown algorithm or holds
            none; the message names file, section and key.
    """
    import yaml

    try:
        text = Path(file).read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        _check_once(yaml.compose(text, Loader=yaml.SafeLoader), str(file))
    except OSError as error:
        raise ValueError(f"settings {file}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"settings {file}: no YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"settings {file}: expected sections such as 'ppo:' with settings under them")
    environments = content.pop(ENVIRONMENTS, [])
    if not isinstance(environments, list) or not all(isinstance(name, str) for name in environments):
        raise ValueError(f"settings {file}: {ENVIRONMENTS}: expected a list of ids, got {environments!r}")
    return environments, {name: _section(str(file), name, settings) for name, settings in content.items()}


def _section(file: str, name: Any, settings: Any) -> dict[str, Any]:
    from ..registry import available

    names = [*available(), ANY]
    if name not in names:
        raise ValueError(f"settings {file}: section {name!r} is no algorithm; {_nearest(str(name), names)}")
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ValueError(f"settings {file}, section {name!r}: expected settings such as 'n_envs: 32', got {settings!r}")
    return {key: _number(value) for key, value in settings.items()}


def _number(value: Any) -> Any:
    """The value, nested ones too, with texts such as "1e-4" made numbers."""
    if isinstance(value, dict):
        return {key: _number(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_number(inner) for inner in value]
    if isinstance(value, str) and value[:1] in "+-.0123456789":
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _check_once(node: Any, file: str, section: str = "") -> None:
    """Refuse names that stand twice, of which YAML takes the last without a word."""
    seen: set[str] = set()
    for key, inner in node.value if node is not None and node.id == "mapping" else ():
        name = str(key.value)
        if name in seen:
            where = f", section {section!r}" if section else ""
            raise ValueError(f"settings {file}{where}: {name!r} stands twice, at line {key.start_mark.line + 1} again")
        seen.add(name)
        _check_once(inner, file, section or name)


def _of_user(file: Path, env_id: str, algo: str) -> dict[str, Any]:
    environments, sections = read_settings(file)
    if environments and env_id not in environments:
        raise ValueError(f"settings {file}: for {', '.join(environments)}, and not for {env_id}")
    section = algo if algo in sections else ANY
    if section not in sections:
        raise ValueError(f"settings {file}: no section for {algo!r}, nor {ANY!r}; there are {', '.join(sections)}")
    check_keys(file, section, sections[section], algo)
    return sections[section]


def check_keys(file: str | Path, section: str, settings: Iterable[str], algo: str) -> None:
    """Check that an algorithm takes every setting of a section.

    Raises:
        ValueError: it does not; the message names file, section, key and the nearest name.
    """
    from ..registry import get_algorithm, known_arguments

    known = known_arguments(get_algorithm(algo)).union(OF_THE_RUN)
    if section == ANY:
        known.add("kl_coef")  # a run leaves it out where nothing takes it
    for key in settings:
        if key not in known:
            raise ValueError(f"settings {file}, section {section!r}: {algo} takes no {key!r}; {_nearest(key, known)}")


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(names))}"


@cache
def _ours() -> dict[str, dict[str, dict[str, Any]]]:
    """Our settings by environment and algorithm."""
    read = [read_settings(file) for file in sorted(FOLDER.glob("*.yml"))]
    return {env_id: sections for environments, sections in read for env_id in environments}


def write_section(file: str | Path, algo: str, settings: Mapping[str, Any], comment: str = "") -> None:
    """Write an algorithm's section into a YAML file, in place of the one it has; all else stays as it is.

    Args:
        file: the file, made where there is none.
        algo: the section's name.
        settings: plain values by name.
        comment: a line above the first setting.

    Raises:
        ValueError: the file is there, and is no file of settings.
    """
    import yaml

    from rlhf_envs.files import replace_file

    file = Path(file)
    lines: list[str] = []
    if file.exists():
        read_settings(file)
        lines = file.read_text(encoding="utf-8").splitlines()
    text = yaml.safe_dump({algo: dict(settings)}, sort_keys=False, allow_unicode=True).splitlines()
    new = [text[0], *([f"  # {comment}"] if comment else []), *text[1:]]
    start, end = _find_section(lines, algo)
    before, after = lines[:start], lines[end:]
    before += [""] if start == len(lines) and before and before[-1] else []
    new += [""] if after and after[0] else []
    replace_file(file, ("\n".join([*before, *new, *after]) + "\n").encode("utf-8"))


def _find_section(lines: list[str], algo: str) -> tuple[int, int]:
    """The lines of a section, from its name to its last setting; the end of the file where it has none."""
    import yaml

    node = yaml.compose("\n".join(lines), Loader=yaml.SafeLoader)
    for key, value in node.value if node is not None else ():
        if key.value == algo:
            end = key.start_mark.line + 1
            last = value.end_mark.line + (1 if value.end_mark.column else 0)
            while last > end and not lines[last - 1].startswith((" ", "\t")):
                last -= 1  # a block ends where the next begins: what stands between belongs to that
            return key.start_mark.line, max(end, last)
    return len(lines), len(lines)
