"""Run the command `rlhf explain`: which tokens earned a score, and where a policy parts from its reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from rich.console import Console, RenderableType
from rich.text import Text

from rlhf_envs.files import to_json
from rlhf_envs.rendering import printable
from rlhf_envs.rewards import MissingColumnError

from ..training.fields import Pairs, option
from .generate import DecodingFlags
from .options import fail
from .tables import make_table

if TYPE_CHECKING:
    from ..evaluation.explain.explain import Explanation

__all__ = ["ExplainConfig", "explain", "explaining"]

SHOWN = 12  # tokens in the table of those that count most
UP, DOWN = "bold black on #a6cee8", "bold underline black on #f5cf7f"


class ExplainConfig(DecodingFlags):
    """Hold the flags of `rlhf explain`."""

    source: str | None = Field(
        default=None,
        description="Run folder, bundle, model name or folder, hub id, or SB3 zip. None with --reward alone.",
        json_schema_extra={"argument": True},
    )
    text: str | None = option(None, "The prompt; with --reward alone and no --completion the text that is scored.")
    completion: str | None = option(None, "What follows the prompt. By default the source writes it.")
    method: Literal["integrated_gradients", "leave_one_out"] | None = option(
        None, "integrated_gradients (extra explain) where the reward has a reward model, else leave_one_out."
    )
    reward: str | None = option(None, "Reward to explain: a registered name, a folder, or my_module:my_reward.")
    env: str | None = option(None, "Environment whose reward is explained. The run's own, or rlhf/Sentiment-v0.")
    env_kwargs: Pairs = option({}, "Arguments of the environment; repeat the flag.")
    reference: str | None = option(None, "Model that the policy is compared with.")
    alternatives: int = option(5, "Tokens shown that could have come instead.", ge=1)
    seed: int = option(0, "Seeds the sampling.", ge=0)
    trust: bool = option(False, "Load an SB3 zip: it holds pickles, which can run code.")
    html: str | None = option(None, "HTML file to write the explanation to.")
    json_output: bool = option(False, "Print the explanation as JSON, and nothing else.", "--json")


def explain(config: ExplainConfig) -> None:
    """Show which tokens of prompt and completion earned the reward, and where the policy parts from its reference.

    `rlhf explain RUN --text PROMPT` explains a completion that the run writes, or that --completion gives, by component
    of the reward and token by token. `rlhf explain --reward tiny-reward --text TEXT` explains a reward alone.
    """
    if config.source is None and config.reward is None:
        fail("nothing to explain: give a run, as in rlhf explain RUN --text PROMPT, or --reward REWARD --text TEXT")
    if config.html is not None and not Path(config.html).parent.is_dir():
        fail(f"--html {config.html}: there is no folder {Path(config.html).parent}")
    if config.text is None:
        fail("--text is missing: the prompt, or with --reward alone the text that is scored")
    explain, page = explaining()
    try:
        found = _explain(config, explain)
    except MissingColumnError as error:
        fail(f"{error}; a typed text has no columns: explain another reward with --reward")
    if config.html is not None:
        Path(config.html).write_text(page.as_page(found), encoding="utf-8")
    if config.json_output:
        print(to_json(found.to_dict(), ensure_ascii=False, indent=2))
        return
    console = Console(highlight=False)
    for part in _shown(found, page):
        console.print(part, soft_wrap=isinstance(part, Text))
    if config.html is not None:
        console.print(f"written to {config.html}", soft_wrap=True, markup=False)


def explaining() -> tuple[Any, Any]:
    """Return the modules that explain and that draw explanations, which bring in torch; no bar of progress is shown."""
    from transformers.utils import logging

    from ..evaluation.explain import explain, page

    logging.disable_progress_bar()
    return explain, page


def _explain(config: ExplainConfig, explain: Any) -> Explanation:
    if config.source is None:
        others = sorted(config.model_fields_set - {"reward", "text", "completion", "method", "html", "json_output"})
        if others:
            fail(f"--{others[0].replace('_', '-')} is for a run or a model: name one, or leave it out")
        found: Explanation = explain.explain_reward(config.reward, config.text, config.completion, config.method)
        return found
    reward = {} if config.reward is None else {"reward": config.reward}
    same = {"completion", "method", "env", "reference", "seed", "deterministic", "max_new_tokens", "trust"}
    found = explain.explain(
        config.source,
        config.text,
        top=config.alternatives,
        env_kwargs={**config.env_kwargs, **reward},
        **config.model_dump(include=same),
        **config.decoding(),
    )
    return found


def _shown(found: Explanation, page: Any) -> Iterator[RenderableType]:
    """Yield the text with its marks, how they were found, and the tables."""
    total, most = found.total, page.largest(found)
    by = f", by {found.source}" if found.source else ""
    yield Text(f"{found.reward_name}: {total.score:.3f}{by}")
    values = page.known(total.values)
    marked = Text()
    for unit, value in zip(found.units, values, strict=True):
        if unit.part == "completion" and unit.start == 0 and marked:
            marked.append("|", "dim")
        style = "" if abs(value) < most / 10 else UP if value > 0 else DOWN
        marked.append(printable(unit.text), style)
    if not found.completion:
        marked.append("| (empty completion)", "dim")
    yield marked
    yield Text("bold: raised the score; bold and underlined: lowered it; | begins the completion", "dim")
    yield Text(page.method_line(found), "dim")
    for note in found.notes:
        yield Text(f"note: {note}", "dim")
    order = sorted(range(len(values)), key=lambda i: -abs(values[i]))[:SHOWN]
    names = list(found.components)
    rows = [
        (
            found.units[i].part,
            printable(page.named(found.units[i].text)),
            *(page.cell(found.components[name].values[i]) for name in names),
        )
        for i in order
    ]
    if rows:
        yield make_table(("part", "token", *names), rows, title=f"the {len(rows)} tokens that count most", left=2)
    if len(names) > 1:
        parts = [
            (name, one.method, "" if one.weight is None else f"{one.weight:g}", f"{one.score:.3f}", f"{one.delta:+.4f}")
            for name, one in found.components.items()
        ]
        yield make_table(("component", "method", "weight", "score", "delta"), parts, left=2)
    if found.steps:
        yield _steps(found, page)


def _steps(found: Explanation, page: Any) -> RenderableType:
    """Return the completion token by token: log-probabilities, log-ratios, KL, and alternatives."""
    rows = []
    for step in found.steps:
        compared = ["", ""] if step.kl is None else [f"{step.log_ratio:+.3f}", f"{step.kl:.3f}"]
        others = ", ".join(f"{printable(one.token)!r} {one.probability:.2f}" for one in step.alternatives)
        rows.append((printable(page.named(step.token)), others, f"{step.log_prob:.3f}", *compared))
    heads = ("token", "most probable instead", "log p", "log ratio", "KL")
    against = found.reference or "no reference"
    return make_table(heads, rows, title=f"token by token, in nats; against {against}", left=2)
