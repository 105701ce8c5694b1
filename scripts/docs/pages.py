"""Write the generated pages of the documentation while MkDocs builds it (plugin gen-files): nothing lands in `docs/`.

A page per environment and per algorithm comes from its class, the command line from the Typer app, and the changelog,
the contributing guide and the benchmark results from their files.
"""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import mkdocs_gen_files
import typer.main
from typer.cli import get_docs_for_click

import agents
from agents.cli import app
from agents.registry import available, get_algorithm
from agents.registry import describe as describe_algorithm
from agents.training.hyperparams import default_hyperparams, parse_yaml
from rlhf_envs.registration import describe, task_of, text_environments
from rlhf_envs.tasks.results import describe_result

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "https://github.com/rlhf-envs/rlhf-envs/blob/main"
COPIES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "benchmarks.md": "benchmarks/RESULTS.md",
}
PLANS = parse_yaml((ROOT / "benchmarks" / "tasks" / "plans.yml").read_text(encoding="utf-8"))
TABLE = "*A table of all of them stands here on the built site (`mkdocs serve`).*"
NEED_A_SERVER = ("rlhf/OpenEnv-v0",)  # no episode of theirs can be shown
CLASS_ONLY = "    options:\n      members: false\n      show_root_heading: false\n      show_root_toc_entry: false\n"


def write(path: str, text: str) -> None:
    """Write one page of the site."""
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text.rstrip() + "\n")


def table(*headings: str, rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def summary_of(cls: type[Any]) -> str:
    """Return the first paragraph of a docstring, as one line."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


def play(env: gym.Env[Any, Any], seed: int) -> tuple[str, str, float, str]:
    """Play one episode of random tokens, and return its prompt, completion, reward and finish reason."""
    env.reset(seed=seed)
    env.action_space.seed(seed)
    terminated = False
    while not terminated:
        _, reward, terminated, _, info = env.step(env.action_space.sample())
    return info["prompt"], info["completion"], float(reward), info["finish_reason"]


def commands_of(env_id: str) -> str:
    """Return the commands that `python -m benchmarks.tasks` measures an environment with, as a section; "" if none."""

    def command(*words: str, flags: dict[str, Any]) -> str:
        return " ".join([*words, *(f"--{name} {value}" for name, value in flags.items())])

    if env_id not in PLANS:
        return ""
    plan = PLANS[env_id]
    lines, start = [f"python -m benchmarks.tasks {env_id}   # all seeds; one by hand:"], []
    if "sft" in plan:
        task, base = task_of(env_id), {}
        if task is not None and task.pretraining is not None:
            lines.append(f"rlhf pretrain {task.pretraining}")
            base = {"model": task.pretraining.split()[1]}
        lines.append(command("rlhf sft", env_id, "start", flags={**base, **plan["sft"]}))
        start = ["--model start"]
    lines.append(command("rlhf train --env", env_id, "--algo", plan["algo"], *start, flags=plan["train"]))
    return "\n".join(["## How it is measured\n\n```bash", *lines, "```\n\n"])


def source_of(cls: type[Any]) -> str:
    """Return a link to the file that a class is written in, as a line of a page."""
    path = Path(inspect.getfile(cls)).resolve().relative_to(ROOT).as_posix()
    return f"Source: [`{path}`]({REPOSITORY}/{path})"


def spaces_of(env: gym.Env[Any, Any] | None) -> list[tuple[str, str]]:
    """Return the spaces of an environment as rows of a table; none without one."""
    if env is None:
        return []
    observed = "<br>".join(f"`{k}`: `{v}`" for k, v in env.observation_space.items())  # type: ignore[attr-defined]
    return [("Action space", f"`{env.action_space}`"), ("Observation space", observed)]


def document_environment(env_id: str) -> str:
    """Return the page of an environment, in Gymnasium's form."""
    about = describe(env_id)
    served = env_id in NEED_A_SERVER
    env = None if served else gym.make(env_id)
    module, _, name = str(gym.spec(env_id).kwargs["task"]).partition(":")
    facts = table(
        "property",
        "value",
        rows=[
            ("Make", f'`gym.make("{env_id}"{", base_url=..." if served else ""})`'),
            *spaces_of(env),
            ("Reward", f"`{about.reward}`"),
            ("Model (tokenizer)", f"`{about.model}`" if about.model else "none: the task has a vocabulary of its own"),
            ("Measured", describe_result(env_id) or "not yet"),
            ("Room", f"{about.max_prompt_tokens} prompt tokens, {about.max_new_tokens} new tokens"),
        ],
    )
    link = source_of(type(task_of(env_id)))
    if env is None:
        return f"# {env_id}\n\n{facts}\n\n::: {module}.{name}\n{CLASS_ONLY}\n{link}\n"
    if about.model is None:
        writer, episodes = "random tokens", [play(env, seed) for seed in range(3)]
    else:
        done = agents.generate(about.model, env_id, n_prompts=3, seed=0)
        writer = f'"{about.model}"'
        episodes = [(c.prompt, c.completion, c.reward, c.finish_reason) for c in done]
    rows = [(f"`{prompt!r}`", f"`{text!r}`", f"{reward:.3f}", reason) for prompt, text, reward, reason in episodes]
    sampled = table("prompt", f"completion of {writer}", "reward", "finish_reason", rows=rows)
    return f"""# {env_id}

{facts}

::: {module}.{name}
{CLASS_ONLY}
{commands_of(env_id)}## Episodes before training

{sampled}

{link}
"""


def document_algorithm(name: str) -> str:
    """Return the page of an algorithm: its class, its defaults, and its settings per environment."""
    cls = get_algorithm(name)
    values = {k: v for k, v in describe_algorithm(cls).defaults.items() if k != "env" and not k.startswith("_")}
    values = {k: v for k, v in values.items() if isinstance(v, bool | int | float | str | None)}
    defaults = table("argument", "default", rows=[(f"`{k}`", f"`{v!r}`") for k, v in sorted(values.items())])
    settings = []
    for env_id in text_environments():
        own = default_hyperparams(env_id, name)
        settings.append((f"`{env_id}`", ", ".join(f"`{k}={v}`" for k, v in own.items())))
    return f"""# {name}

`agents.make("{name}", env)`, or `rlhf train --algo {name}`.

::: {cls.__module__}.{cls.__qualname__}
{CLASS_ONLY}
## Defaults

{defaults}

## Settings of `rlhf train`

What `rlhf train --algo {name}` takes per environment. `-params name:value` changes one of them.

{table("environment", "settings", rows=settings)}

{source_of(cls)}
"""


def relink(text: str, source: Path, page: str) -> str:
    """Point the relative links that leave `docs/` to their pages on the site, or else to the repository.

    Args:
        text: Markdown.
        source: the file it comes from.
        page: the page it becomes, relative to the site.
    """
    copies = {(ROOT / file).resolve(): target for target, file in COPIES.items()}

    def replace(match: re.Match[str]) -> str:
        target, _, anchor = match[1].partition("#")
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = (source.parent / target).resolve()
        anchor = f"#{anchor}" if anchor else ""
        if path.is_relative_to(ROOT / "docs") or path in copies:
            on_site = copies.get(path) or path.relative_to(ROOT / "docs").as_posix()
            return f"]({os.path.relpath(on_site, Path(page).parent)}{anchor})"
        return f"]({REPOSITORY}/{path.relative_to(ROOT).as_posix()}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", replace, text)


def main() -> None:
    """Write all generated pages."""
    ids = {env_id: env_id.split("/")[1] for env_id in text_environments() if env_id.startswith("rlhf/")}
    for env_id, page in ids.items():
        write(f"environments/{page}.md", document_environment(env_id))
    names = [name for name in available() if get_algorithm(name).__module__.startswith("agents.")]
    for name in names:
        write(f"algorithms/{name}.md", document_algorithm(name))
    lists = {
        "environments/index.md": [
            (
                f"[`{env_id}`]({page}.md)",
                describe(env_id).summary,
                f"`{describe(env_id).reward}`",
                describe_result(env_id),
            )
            for env_id, page in ids.items()
        ],
        "algorithms/index.md": [(f"[`{n}`]({n}.md)", summary_of(get_algorithm(n))) for n in names],
    }
    headings = {
        "environments/index.md": ("id", "task", "reward", "measured"),
        "algorithms/index.md": ("name", "what it is"),
    }
    for page, rows in lists.items():
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        write(page, text.replace(TABLE, table(*headings[page], rows=rows)))
    command = typer.main.get_command(app)
    reference = get_docs_for_click(obj=command, ctx=typer.Context(command), name="rlhf")
    text = re.sub(r"`[^`]*`|<(?=[\w-])", lambda m: "&lt;" if m[0] == "<" else m[0], reference.split("\n", 1)[1])
    write("cli.md", f"# Command line\n\n{text}")
    for page, file in COPIES.items():
        write(page, relink((ROOT / file).read_text(encoding="utf-8"), ROOT / file, page))
    for path in sorted((ROOT / "docs").rglob("*.md")):
        page = path.relative_to(ROOT / "docs").as_posix()
        text = path.read_text(encoding="utf-8")
        if page not in lists and relink(text, path, page) != text:
            write(page, relink(text, path, page))
    pages = [("environments", list(ids.values())), ("algorithms", names)]
    for folder, entries in pages:
        write(f"{folder}/SUMMARY.md", "\n".join(["* [Overview](index.md)", *(f"* [{n}]({n}.md)" for n in entries)]))


if __name__ == "<run_path>":  # so the plugin runs it; a test imports it
    main()
