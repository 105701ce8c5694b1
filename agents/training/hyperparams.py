"""Read the settings that `rlhf train` takes where the user gives none. This module imports no torch.

As in rl_zoo3 they are YAML files. Ours are in `agents/training/settings/`, one file per environment with one section
per algorithm. A file lists under `environments` the environments it is for. The section `any` is for algorithms
without a section of their own. `n_timesteps` counts tokens; every other setting is an argument of `agents.make`.

For Sentiment, TokenBandit and IncreasingNumbers those of `ppo` and `a2c` are tuned: a run learns in about a minute on
two cores. The others start from these, and most were tried on one seed. `nlpo`, `maskable_ppo`, `dqn`, `qrdqn` and
`ilql` are hardly tuned. What the settings of the tasks give over three seeds is in `rlhf_envs/tasks/results.json`; the
files say where nothing was tuned.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from rlhf_envs.files import replace_file
from rlhf_envs.names import nearest

from ..registry import available, describe, get_algorithm

__all__ = ["check_keys", "default_hyperparams", "parse_yaml", "read_settings", "write_section"]

FOLDER = Path(__file__).parent / "settings"
ENVIRONMENTS, ANY = "environments", "any"
RUN_SETTINGS = ("n_timesteps", "n_envs")  # what the run takes; an algorithm takes the rest


def default_hyperparams(env_id: str, algo: str, file: str | Path | None = None) -> dict[str, Any]:
    """Return a copy of the settings for an environment and an algorithm.

    Args:
        env_id: the environment's id, without a module.
        algo: the algorithm's name. Without a section of its own it gets the section `any`.
        file: a user's YAML file, which replaces all of ours.

    Raises:
        ValueError: the user's file is wrong, is not for this environment, or has no section for the algorithm.
    """
    if file is not None:
        return _user_settings(Path(file), env_id, algo)
    sections = _our_settings(env_id)
    return dict(sections.get(algo) or sections.get(ANY) or read_settings(FOLDER / "any.yml")[1][ANY])


def read_settings(file: str | Path) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Return the environments that a file is for (an empty list means all), and its settings by algorithm.

    Raises:
        ValueError: the file is missing or is not YAML, a name stands twice, or a section is wrong. The message has the
            file and the section.
    """
    try:
        content = parse_yaml(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"settings {file}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"settings {file}: expected sections such as 'ppo:' with settings under them")
    environments = content.pop(ENVIRONMENTS, [])
    if not isinstance(environments, list) or not all(isinstance(name, str) for name in environments):
        raise ValueError(f"settings {file}: {ENVIRONMENTS}: expected a list of ids, got {environments!r}")
    for name, settings in content.items():
        _check_section(file, name, settings)
    return environments, content


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML 1.2 text as plain data. No tag makes an object, and nothing is evaluated.

    Raises:
        ValueError: the text is not YAML, or a name stands twice. The message has the line.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise ValueError(f"{line}not valid YAML: {error.problem}") from error
    except YAMLError as error:  # such as a control character
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from error


def _check_section(file: str | Path, name: Any, settings: Any) -> None:
    names = [*available(), ANY]
    if name not in names:
        raise ValueError(f"settings {file}: section {name!r} is no algorithm; {nearest(str(name), sorted(names))}")
    where = f"settings {file}, section {name!r}"
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ValueError(f"{where}: expected settings such as 'n_envs: 32', got {settings!r}")
    for key, value in settings.items():  # YAML 1.1 read these words as true and false, YAML 1.2 reads them as text
        if isinstance(value, str) and value.lower() in ("yes", "no", "on", "off"):
            raise ValueError(f"{where}: {key}: write true or false, not {value!r}")


def _user_settings(file: Path, env_id: str, algo: str) -> dict[str, Any]:
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
        ValueError: it does not. The message has the file, the section, the setting and the nearest known name.
    """
    known = describe(get_algorithm(algo)).known.union(RUN_SETTINGS)
    if section == ANY:
        known |= {"kl_coef"}  # a run leaves it out for algorithms that do not take it
    for key in settings:
        if key not in known:
            raise ValueError(
                f"settings {file}, section {section!r}: {algo} takes no {key!r}; {nearest(key, sorted(known))}"
            )


@cache
def _our_settings(env_id: str) -> dict[str, dict[str, Any]]:
    """Return the settings of this package for an environment, by algorithm; none if no file is for it.

    Only files that have its id somewhere are parsed: to parse all takes 0.1 s in each process that trains.
    """
    for file in sorted(FOLDER.glob("*.yml")):
        if env_id in file.read_text(encoding="utf-8"):
            environments, sections = read_settings(file)
            if env_id in environments:
                return sections
    return {}


def write_section(file: str | Path, algo: str, settings: Mapping[str, Any], comment: str = "") -> None:
    """Write an algorithm's section into a YAML file, instead of the section it has; all other lines stay as they are.

    Args:
        file: the file; it is made if there is none.
        comment: a line above the first setting.

    Raises:
        ValueError: the file exists, and is no file of settings.
    """
    file = Path(file)
    lines: list[str] = []
    if file.exists():
        read_settings(file)
        lines = file.read_text(encoding="utf-8").splitlines()
    start, end = _find_section(lines, algo)
    before, after = lines[:start], lines[end:]
    if start == len(lines) and before and before[-1]:
        before.append("")
    dumped = io.StringIO()
    YAML().dump({algo: dict(settings)}, dumped)
    name, *values = dumped.getvalue().splitlines()
    section = [name, *([f"  # {comment}"] if comment else []), *values, *([""] if after and after[0] else [])]
    replace_file(file, ("\n".join([*before, *section, *after]) + "\n").encode("utf-8"))


def _find_section(lines: list[str], algo: str) -> tuple[int, int]:
    """Return the lines of a section, from its name to its last setting; the end of the file if there is no section."""
    content: Any = YAML().load("\n".join(lines)) or {}
    if algo not in content:
        return len(lines), len(lines)
    starts = [content.lc.key(name)[0] for name in content]
    start = content.lc.key(algo)[0]
    end = min((line for line in starts if line > start), default=len(lines))
    while end > start + 1 and not lines[end - 1].startswith((" ", "\t")):
        end -= 1  # a comment or an empty line, which belongs to the next section
    return start, end
