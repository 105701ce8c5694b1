"""Let simulated annotators answer what a round of a loop (`.loop`) asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlhf_envs.datasets.messages import answer_to, kept_prompt
from rlhf_envs.feedback import Item
from rlhf_envs.feedback.simulated import SimulatedAnnotator, annotate, simulated_crowd
from rlhf_envs.feedback.simulated.flagging import told_apart
from rlhf_envs.rewards import get_reward
from rlhf_envs.rewards.state import frozen_rewards

from .aspects.steps import kinds_of_completions
from .state import PAIRS, Loop

__all__ = ["ask_simulated", "crowd"]


def crowd(loop: Loop) -> list[SimulatedAnnotator]:
    """Return the simulated annotators of a run. Some of them are spammers."""
    config = loop.config
    if not config.annotators:
        return []
    options: dict[str, Any] = {"seed": config.seed, "temperature": config.noise, "skip_rate": config.skip_rate}
    settings = loop.simulated.settings
    options |= told_apart({name: get_reward(str(reward)) for name, reward in config.by.items()}, settings)
    options["scale"] = settings.scale
    return simulated_crowd(get_reward(str(config.scorer)), config.annotators, config.random_share, **options)


@frozen_rewards()
def ask_simulated(loop: Loop, items: Sequence[Item]) -> None:
    """Let the simulated annotators judge the items in turns. The one whose turn is next begins."""
    store, annotators = loop.simulated, crowd(loop)
    if references := _references(loop):
        about = {name: scores for name, scores in references.items() if name}
        annotators = [replace(one, references=about, reference=references.get("")) for one in annotators]
    wanted = {item.id for item in items}
    judgements = store.judgements(include_skips=True)
    given = Counter(judgement.item_id for judgement in judgements if judgement.value is not None)
    others = [item for item in store.items() if item.id not in wanted and given[item.id] < item.overlap]
    if others:
        raise ValueError(
            f"the store {store.url} has {len(others)} unfinished items that are not of this round (item "
            f"{others[0].id} of {others[0].source or 'no source'!r}), which simulated annotators would answer: finish "
            "them first, or take a --store of its own"
        )
    names = {annotator.name for annotator in annotators}
    turn = sum(judgement.annotator in names for judgement in judgements) % len(annotators)
    annotate(store, annotators[turn:] + annotators[:turn])
    store.withdraw(sorted(wanted))  # the items that all of them have skipped


@frozen_rewards()
def _references(loop: Loop) -> dict[str, list[float]]:
    """Return the scores over which simulated annotators spread ratings: those of a question, "" for items' own."""
    ratings = [question.name for question in loop.simulated.settings.questions if question.type == "rating"]
    ratings += [""] if "rating" in kinds_of_completions(loop) else []
    if not ratings:
        return {}
    pairs = loop.read(1, "generate", PAIRS)  # in every round, so that a rating keeps its meaning
    asked = [(kept_prompt(pair["prompt"], pair), text) for pair in pairs for text in pair["completions"]]
    prompts, answers = [prompt for prompt, _ in asked], [answer_to(prompt, text) for prompt, text in asked]
    by = {name: str(loop.config.by.get(name, loop.config.scorer)) for name in ratings}
    scores = {reward: [float(score) for score in get_reward(reward)(prompts, answers)] for reward in set(by.values())}
    return {name: scores[reward] for name, reward in by.items()}
