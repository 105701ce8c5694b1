"""Run `rlhf feedback judge`: let language models answer, or tell first how far they agree with people."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from rlhf_envs.feedback.records import MODEL_MARK
from rlhf_envs.rewards.ai_judge import AIJudge, annotate, check_judge, judges_alpha

from ...training.fields import option
from ..options import fail
from ..tables import make_table
from .common import StoreConfig, actor, open_store

if TYPE_CHECKING:
    from rlhf_envs.feedback import FeedbackStore
    from rlhf_envs.rewards.ai_judge import JudgeCheck

__all__ = ["JudgeConfig", "judge"]


class JudgeConfig(StoreConfig):
    """Hold the flags of `rlhf feedback judge`."""

    judge: list[str] = option([], "YAML file of a judge; repeat the flag for several.")
    check: bool = option(
        False,
        "Store nothing: ask what people have answered, and compare the judges with them and each other.",
        "--check",
    )
    finished: bool = option(
        False, "Also ask about items that have all their judgements: their overlap grows by one.", "--finished"
    )
    limit: int | None = option(None, "The most answers per judge. All by default.", ge=1)
    output: str | None = option(None, "JSON file to write what was found or done to.", "-o", "--output")


def judge(config: JudgeConfig) -> None:
    """Let language models answer what people are asked, each as an annotator of its own, ai:NAME@VERSION.

    A pair is asked in both orders, and is a tie where they disagree; a ranking in a drawn order and its reverse. A
    correction is a revision by the standard, after a critique. The same call again asks about new items alone. Look at
    --check first.
    """
    if not config.judge:
        fail("give a judge: --judge FILE.yml")
    if config.check and config.finished:
        fail("--finished is for answers that are stored, and --check stores none")
    judges = {file: AIJudge(file) for file in config.judge}
    if len({one.annotator for one in judges.values()}) < len(config.judge):
        fail("two of the judges are the same: change the model or the rubric, or give each its name")
    with open_store(config.store) as store:
        found = _check(store, judges, config.limit) if config.check else _annotate(store, judges, config)
    if config.output is not None:
        Path(config.output).write_text(json.dumps(_plain(found), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if stopped := [said for one in found["judges"] if (said := one.get("stopped"))]:
        fail("; ".join(stopped), code=1)


def _annotate(store: FeedbackStore, judges: dict[str, AIJudge], config: JudgeConfig) -> dict[str, Any]:
    """Let the judges answer, one after the other, and say what each did."""
    done = []
    for file, one in judges.items():
        work = annotate(one, store, finished=config.finished, limit=config.limit)
        store.log(
            actor(), "judge", after={"judge": one.annotator, "model": one.settings.model, "answers": work.answered}
        )
        skipped = f", {work.failed} without a verdict and {work.others} that no judge can answer skipped"
        if work.left_out:
            skipped += f", {work.left_out} optional questions left out without a verdict"
        typer.echo(f"{one.annotator}: {work.answered} answers{skipped} ({one.usage.text})")
        done.append({"file": file, "annotator": one.annotator, **vars(work), "usage": one.usage.to_dict()})
    return {"judges": done}


def _check(store: FeedbackStore, judges: dict[str, AIJudge], limit: int | None) -> dict[str, Any]:
    """Compare the judges with people and with each other, and print it."""
    items, judgements, versions = store.items(), store.judgements(), store.versions()
    asked = {one.item_id for one in judgements if not one.annotator.startswith(MODEL_MARK)}
    items = [item for item in items if item.id in asked][:limit]
    found, answers = [], {}
    for file, one in judges.items():
        checks, answers[one.annotator] = check_judge(one, items, judgements, versions)
        typer.echo(f"{one.annotator}:")
        Console().print(_table(checks))
        typer.echo(one.usage.text)
        kinds = [check._asdict() for check in checks]
        found.append({"file": file, "annotator": one.annotator, "checks": kinds, "usage": one.usage.to_dict()})
    among = judges_alpha(answers, items) if len(judges) > 1 else {}
    for kind, alpha in among.items():
        typer.echo(f"Krippendorff's alpha of the judges among each other, {kind}: {_number(alpha)}")
    return {"judges": found, "judges_alpha": among}


def _table(checks: list[JudgeCheck]) -> Any:
    """Return what was found of a judge, with a column per kind."""
    rows = [
        ("items", [str(check.items) for check in checks]),
        ("agrees with people", [_number(check.agreement) for check in checks]),
        ("alpha with people", [_with_interval(check) for check in checks]),
        ("people's own alpha", [_number(check.people_alpha) for check in checks]),
        ("same when swapped", [_number(check.consistent) for check in checks]),
        ("for the text shown first", [_number(check.first) for check in checks]),
        ("without a verdict", [str(check.failed) for check in checks]),
    ]
    return make_table(("", *(check.kind for check in checks)), [(label, *cells) for label, cells in rows])


def _with_interval(check: JudgeCheck) -> str:
    bounds = "" if math.isnan(check.low) else f" ({check.low:.2f} to {check.high:.2f})"
    return f"{_number(check.alpha)}{bounds}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _plain(value: Any) -> Any:
    """Return the same with None for what is not known."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
