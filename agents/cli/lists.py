"""Run the commands `rlhf algos`, `rlhf rewards` and `rlhf models`: list what --algo, --reward and --model take."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer
from rich.console import Console

from rlhf_envs.models import NAMES
from rlhf_envs.names import find_name
from rlhf_envs.rewards.registry import list_rewards, reward_target

from ..core.arguments import argument_texts, type_name
from ..registry import available, describe, get_algorithm
from .options import COMPLETIONS, user_errors
from .tables import make_table

__all__ = ["algos", "models", "rewards"]

# Arguments that `agents.make` and the run fill in, or that belong to SB3's other policies.
HIDDEN = {"policy", "env", "device", "seed", "verbose", "tensorboard_log", "support_multi_env", "monitor_wrapper"} | {
    "supported_action_spaces", "use_sde", "sde_sample_freq", "stats_window_size", "args", "kwargs"
}  # fmt: skip
Algorithm = Annotated[
    str | None, typer.Argument(help="Algorithm whose arguments to list.", autocompletion=COMPLETIONS["algo"])
]
Reward = Annotated[
    str | None, typer.Argument(help="Reward whose arguments to list.", autocompletion=COMPLETIONS["reward"])
]


def algos(name: Algorithm = None) -> None:
    """List the algorithms, or the arguments of one with their defaults and meaning."""
    console = Console()
    with user_errors():
        if name is None:
            rows = [(algo, _summary(get_algorithm(algo))) for algo in available()]
            console.print(make_table(("algorithm", ""), rows, left=2, no_wrap=("algorithm",)))
            console.print("arguments of one: rlhf algos ppo")
            return
        cls = get_algorithm(find_name(name, available()))
    console.print(inspect.getdoc(cls), markup=False, highlight=False, soft_wrap=True)
    description = describe(cls)
    classes = (cls, *description.parts.values())
    texts = {argument: text for part in reversed(classes) for argument, text in argument_texts(part).items()}
    defaults = {argument: value for part in reversed(classes) for argument, value in describe(part).defaults.items()}
    meanings = []
    for argument in sorted(description.known - HIDDEN):
        if not argument.startswith("_") and not argument.endswith(("_class", "_kwargs")):
            hint = description.hints.get(argument)
            kind = "" if hint is None else f"{type_name(hint)}: "
            meanings.append((argument, _value(defaults.get(argument)), kind + texts.get(argument, "")))
    console.print(make_table(("argument", "default", "meaning"), meanings, left=3, no_wrap=("argument",)))
    console.print("give them as -params n_epochs:4; an environment's settings come before these defaults")


def rewards(name: Reward = None) -> None:
    """List the rewards, or the arguments of one."""
    console = Console()
    if name is not None:
        with user_errors():
            target = reward_target(name)
        console.print(f"{name}{_signature(target)}\n", markup=False, highlight=False)
        console.print(inspect.getdoc(target), markup=False, highlight=False, soft_wrap=True)
        return
    rows = []
    for reward in list_rewards():
        try:
            rows.append((reward, _summary(reward_target(reward))))
        except ValueError as error:  # the package of an extra is missing
            rows.append((reward, str(error)))
    console.print(make_table(("reward", ""), rows, left=2, no_wrap=("reward",)))
    console.print("arguments of one: rlhf rewards NAME; of your own: --reward my_module:score or my_file.py:score")


def models() -> None:
    """List the models that have names."""
    console = Console()
    console.print(make_table(("model", ""), list(NAMES.items()), left=2, no_wrap=("model",)))
    console.print("--model also takes the folder of a Hugging Face model or a hub id, such as organisation/name")


def _summary(target: Any) -> str:
    return (inspect.getdoc(target) or "").split("\n\n")[0].replace("\n", " ")


def _signature(target: Any) -> str:
    parameters = [p for p in inspect.signature(target).parameters.values() if p.kind is not p.VAR_KEYWORD]
    shown = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    return f"({', '.join(shown)})"


def _value(value: Any) -> str:
    return getattr(value, "__name__", "null" if value is None else str(value))
