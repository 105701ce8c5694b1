"""Run `rlhf feedback prioritise` and `rlhf feedback suggest`: what models add to the queue of questions."""

from __future__ import annotations

import time
from typing import Literal

import typer

from rlhf_envs.datasets.messages import answer_to, kept_prompt
from rlhf_envs.feedback.settings_file import changes_for_audit
from rlhf_envs.feedback.suggesting import source_of, suggest_answers, version_of
from rlhf_envs.preferences.prioritising import FIRST_JUDGEMENTS, Prioritiser
from rlhf_envs.rewards import get_reward

from ...training.fields import option
from ..options import argument
from .common import StoreConfig, actor, open_store

__all__ = ["PrioritiseConfig", "SuggestConfig", "prioritise", "suggest"]

POLL_SECONDS = 2.0


class PrioritiseConfig(StoreConfig):
    """Hold the flags of `rlhf feedback prioritise`."""

    policy: Literal["uncertainty", "disagreement", "gain"] | None = option(
        None, "Set this policy first (setting next_item). By default the one that is set."
    )
    model: str = option("tiny-reward", "Whose frozen embeddings the judgements are learned on: also minilm, a folder.")
    every: int = option(0, "Go on until Ctrl-C, and score anew after so many judgements. 0 scores once.", ge=0)
    seed: int = option(0, "Seeds the bootstraps.", ge=0)


def prioritise(config: PrioritiseConfig) -> None:
    """Score the pairs in the queue by what a judgement would teach, so that these are asked first.

    A head on frozen embeddings is fitted to the judgements so far. On the bundled human ratings "gain" taught more than
    random order, and "uncertainty" did not.
    """
    with open_store(config.store) as store:
        if config.policy is not None:
            before = store.settings
            after = store.update_settings(next_item=config.policy)
            if changed := changes_for_audit(before, after):
                store.log(actor(), "settings", after=changed)
        order = store.settings.next_item
        if order in ("age", "random"):
            typer.echo(f'nobody goes by these scores: the setting next_item is "{order}"; --policy gain changes it')
        score, last = Prioritiser(config.model, config.seed), 0
        while True:
            done = score(store)
            last = max((judgement.id for judgement in store.judgements(after_id=last)), default=last)
            few = f"; before {FIRST_JUDGEMENTS} the order is random" if done.judged < FIRST_JUDGEMENTS else ""
            others = f"; {done.others} items of other kinds stay in random order" if done.others else ""
            typer.echo(f"{done.scored} pairs scored by {done.judged} judged ones{few}{others}")
            if not config.every:
                return
            while len(store.judgements(after_id=last)) < config.every:
                time.sleep(POLL_SECONDS)


class SuggestConfig(StoreConfig):
    """Hold the flags of `rlhf feedback suggest`."""

    scorer: str = argument("Reward that suggests: a name, module:attribute, or a folder.")
    source: str | None = option(
        None, "What the suggestions are called. The scorer's name by default, of a folder its last part."
    )
    version: str | None = option(None, "Their version. Of a folder a hash of its files by default.")


def suggest(config: SuggestConfig) -> None:
    """Store what a reward would answer to each question, and count how far people agree with it.

    With the setting suggestions = "after" annotators see it, after their own answer. Corrections and flags are left
    out.
    """
    reward = get_reward(config.scorer)
    with open_store(config.store) as store:
        items = store.items()
        rated = [item for item in items if item.kind in ("rating", "thumbs")]
        prompts = [kept_prompt(item.prompt, item.meta) for item in rated]
        answers = [answer_to(prompt, item.completions[0]) for prompt, item in zip(prompts, rated, strict=True)]
        reference = [float(score) for score in reward(prompts, answers)] if rated else None
        found = suggest_answers(items, reward, scale=store.settings.scale, reference=reference)
        source = config.source or source_of(config.scorer)
        version = version_of(config.scorer) if config.version is None else config.version
        n = store.suggest(found, source=source, version=version)
        store.log(actor(), "suggest", after={"source": source, "version": version, "suggestions": n})
        shown = store.settings.suggestions
    left_out = f"; {len(items) - n} items left out that scores do not answer" if n < len(items) else ""
    see = "see them after their own answer" if shown == "after" else 'do not see them (setting suggestions = "off")'
    typer.echo(f"{config.store}: {n} suggestions by {source}{left_out}; annotators {see}")
