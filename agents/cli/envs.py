"""Run the commands `rlhf envs`: list the environments, and begin a task of one's own."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

import typer
from rich.console import Console

from rlhf_envs.files import replace_file
from rlhf_envs.registration import describe, text_environments
from rlhf_envs.tasks.results import gain_of, read_results

from ..training.fields import option
from .options import Flags, add_command, argument, fail
from .tables import make_table

__all__ = ["envs_app"]

TEMPLATES = Path(__file__).parent / "new_task"

envs_app = typer.Typer(help="List the environments, or begin a task of your own.", invoke_without_command=True)


@envs_app.callback()
def envs(context: typer.Context) -> None:
    """List the environments, or begin a task of your own (`rlhf envs new NAME`)."""
    if context.invoked_subcommand is not None:
        return
    rows = []
    for env_id in text_environments():
        d = describe(env_id)
        size = "" if d.vocab_size is None else str(d.vocab_size)
        room = (str(d.max_prompt_tokens), str(d.max_new_tokens))
        rows.append((env_id, d.reward, d.model or "none", size, *room))
    headings = ("id", "reward", "model", "vocab", "prompt", "new")
    console = Console()
    console.print(make_table(headings, rows, left=3, no_wrap=("id", "vocab", "prompt", "new")))
    console.print("prompt, new: the most tokens of each; change with --env-kwargs max_new_tokens:24")
    results = sorted(read_results().items())
    measured = [(env_id, found["metric"], f"{found['before']:.3f}", gain_of(found)) for env_id, found in results]
    titles = ("measured", "metric", "start", "gain")
    console.print(make_table(titles, measured, left=2, no_wrap=("measured", "start", "gain")))
    console.print("metric: not the reward; start: made by the `rlhf sft` command that `rlhf train --env ID` prints")
    console.print("gain: of `rlhf train --env ID --model start`")
    others: dict[str, list[str]] = {}
    for env_id, found in results:
        if found["algo"] != "ppo":
            others.setdefault(f"--algo {found['algo']}", []).append(env_id.removeprefix("rlhf/"))
        if found["start"] != "sft":
            others.setdefault("no start but the model", []).append(env_id.removeprefix("rlhf/"))
        if "flags" in found:
            others.setdefault(found["flags"], []).append(env_id.removeprefix("rlhf/"))
        if "best" in found:
            others.setdefault(f"metric is best at {found['best']}", []).append(env_id.removeprefix("rlhf/"))
    for what, names in others.items():
        console.print(f"{what}: {', '.join(names)}")
    for env_id, found in results:
        for name, kept in found.get("kept", {}).items():
            console.print(f"{env_id.removeprefix('rlhf/')}, {name}: {kept['before']:.3f}, gain {gain_of(kept)}")


class NewConfig(Flags):
    """Hold the flags of `rlhf envs new`."""

    name: str = argument("Name of the task, such as Weather: its id is my/Weather-v0.")
    folder: str = option(".", "Folder to write into.")


def new(config: NewConfig) -> None:
    """Write a task of your own and its test, to change: NAME_task.py and test_NAME_task.py."""
    name, folder = config.name, Path(config.folder)
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name):
        fail(f"NAME {name!r}: expected a word that begins with a capital letter, such as Weather")
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    module = f"{words}_task"
    files = {"task.txt": folder / f"{module}.py", "test.txt": folder / f"test_{module}.py"}
    if there := [path for path in files.values() if path.exists()]:
        raise FileExistsError(f"{there[0]} is there already: choose another name or --folder")
    folder.mkdir(parents=True, exist_ok=True)
    about = {"Name": name, "name": words.replace("_", "-"), "module": module, "test": files["test.txt"].name}
    for template, path in files.items():
        text = Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(about)
        replace_file(path, text.encode("utf-8"))
    task, test = files.values()
    typer.echo(f"{task} and {test}: the task my/{name}-v0.")
    inside = "" if folder == Path() else f"cd {folder} && "
    typer.echo(f"Change {task.name}, and run its test (pip install pytest): {inside}pytest {test.name}")
    typer.echo(f"Then train: rlhf train --env ./{task.name}:my/{name}-v0")


add_command(envs_app, NewConfig, "new")(new)
