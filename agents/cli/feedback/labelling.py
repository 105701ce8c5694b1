"""Run `rlhf feedback serve`, `label` and `simulate`: let people, or annotators that are simulated, answer."""

from __future__ import annotations

import getpass
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import typer

from rlhf_envs import preferences
from rlhf_envs.datasets.messages import answer_to, kept_prompt
from rlhf_envs.feedback import web
from rlhf_envs.feedback.simulated import annotate, simulated_crowd
from rlhf_envs.feedback.simulated.flagging import check_names, told_apart
from rlhf_envs.feedback.terminal.label import label as label_here
from rlhf_envs.feedback.web.store_names import name_stores
from rlhf_envs.rewards import get_reward

from ...training.fields import option
from ..options import Flags, fail
from .common import StoreConfig, open_store

if TYPE_CHECKING:
    from rlhf_envs.feedback import FeedbackStore
    from rlhf_envs.feedback.settings import Settings

__all__ = ["LabelConfig", "ServeConfig", "SimulateConfig", "label", "serve", "simulate"]


class ServeConfig(Flags):
    """Hold the flags of `rlhf feedback serve`."""

    store: list[str] = option(
        ["feedback.db"],
        "SQLite file, or postgresql://user@host/name. Several projects: NAME=STORE, and repeat the flag.",
    )

    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 for other machines and phones.")
    port: int = option(8000, "Port to listen on; 0 takes a free one.", ge=0, le=65535)
    url: str | None = option(
        None, "Address under which people reach the page, for invitations: https://label.example.org"
    )
    proxy: list[str] = option([], "Address or network of a proxy in front of the page, whose X-Forwarded-For counts.")
    secure_cookies: bool = option(False, "Send cookies over HTTPS only. On by itself with --url https://...")


def serve(config: ServeConfig) -> None:
    """Serve the annotation page until Ctrl-C. At the first start it prints the link that makes the admin's account."""
    try:
        stores = name_stores(config.store)
    except ValueError as error:
        fail(str(error))
    web.serve(
        stores,
        config.host,
        config.port,
        url=config.url,
        proxies=config.proxy,
        secure_cookies=config.secure_cookies,
        analyse=preferences.crowd_figures,
        forecaster=preferences.forecast_labels,
    )


class LabelConfig(StoreConfig):
    """Hold the flags of `rlhf feedback label`."""

    name: str | None = option(None, "Who judges, annotator or admin. The user's name by default.")
    limit: int | None = option(None, "The most answers. All by default.", ge=1)


def label(config: LabelConfig) -> None:
    """Judge here, in the terminal, with one key per answer. Corrections open in $EDITOR."""
    with open_store(config.store) as store:
        label_here(store, config.name or getpass.getuser(), limit=config.limit)


class SimulateConfig(StoreConfig):
    """Hold the flags of `rlhf feedback simulate`."""

    scorer: str = option("gold", "Reward that says what is better: a name, module:attribute, or a folder.")
    n_annotators: int = option(10, "Annotators.", "-n", "--n-annotators", ge=1)
    random_share: float = option(0.1, "Share of annotators that click at random; their number is rounded.", ge=0, le=1)
    by: list[str] = option(
        [],
        "Reward that answers one of the project's questions, or flags a harm (from 0.5 on), NAME:REWARD; repeat.",
    )
    temperature: float = option(1.0, "Noise: the better one is chosen with sigmoid(difference / temperature).", ge=0)
    bias: float = option(0.0, "Added to the score of the completion shown first.")
    length_bias: float = option(0.0, "Added to a score for every 100 characters.")
    tie_margin: float = option(0.0, "Scores that differ by less are a tie.", ge=0)
    skip_rate: float = option(0.0, "Share of tasks that are skipped.", ge=0, le=1)
    name: str = option("simulated", "Name of the annotators: <name>-1, <name>-2, ...")
    limit: int | None = option(None, "The most answers. All by default.", ge=1)
    seed: int = option(0, "Seeds their noise and their choice of spammers.", ge=0)
    yes: bool = option(False, "Also where people have answered in this store already.", "--yes", "-y")


def simulate(config: SimulateConfig) -> None:
    """Let simulated annotators, who judge by a reward, answer what is open."""
    reward = get_reward(config.scorer)
    with open_store(config.store) as store:
        _check_nobody_labelled(store, config)
        settings = config.model_dump(exclude={"store", "scorer", "n_annotators", "limit", "by", "yes"})
        settings |= told_apart(_scorers(config.by, store.settings), store.settings)
        items = store.items()
        if rated := [item for item in items if item.kind in ("rating", "thumbs")]:
            settings["reference"] = _scores(reward, rated)  # they spread the ratings over the scale
        settings["references"] = {
            question.name: _scores(settings["scorers"].get(question.name, reward), asked)
            for question in store.settings.questions
            if question.type == "rating"
            and (asked := [item for item in items if not question.kinds or item.kind in question.kinds])
        }
        crowd = simulated_crowd(reward, config.n_annotators, scale=store.settings.scale, **settings)
        done = annotate(store, crowd, config.limit)
        progress = store.progress()
    spammers = [annotator.name for annotator in crowd if annotator.clicks_at_random]
    typer.echo(f"{done} answers, {progress.finished} of {progress.items} items are done")
    typer.echo(f"who clicks at random: {', '.join(spammers) or 'nobody'}")


def _check_nobody_labelled(store: FeedbackStore, config: SimulateConfig) -> None:
    """Fail if anyone but these simulated annotators has answered, since answers of both would stand together."""
    simulated = re.compile(rf"{re.escape(config.name)}-\d+")
    given = Counter(j.annotator for j in store.judgements(include_skips=True) if not simulated.fullmatch(j.annotator))
    if given and not config.yes:
        who = ", ".join(sorted(given)[:3]) + (" and others" if len(given) > 3 else "")
        fail(
            f"{config.store} has {given.total()} answers by {who}: simulated ones would stand among them. Simulate in "
            "another store (--store), or give --yes"
        )


def _scores(reward: Any, items: list[Any]) -> list[float]:
    """Return the scores of all completions of some items."""
    prompts = [kept_prompt(item.prompt, item.meta) for item in items for _ in item.completions]
    texts = [text for item in items for text in item.completions]
    return [float(score) for score in reward(prompts, [answer_to(*both) for both in zip(prompts, texts, strict=True)])]


def _scorers(pairs: list[str], settings: Settings) -> dict[str, Any]:
    """Return the rewards in NAME:REWARD by the names of the questions and harms."""
    scorers = {}
    for pair in pairs:
        name, colon, reward = pair.partition(":")
        if not colon:
            fail(f"--by {pair!r}: write NAME:REWARD")
        try:
            check_names([name], settings)
        except ValueError as error:
            fail(f"--by {pair!r}: {error}")
        scorers[name] = get_reward(reward)
    return scorers
