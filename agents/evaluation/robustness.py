"""Attack a trained policy and the reward model it was trained on, and measure how often the attacks succeed.

The policy is attacked through held-out prompts (`agents.evaluation.policy_attacks`): their embeddings are changed a
little, or a few of their tokens are swapped, to make it leave the completion that it would write. Then it completes the
attacked prompt, and the completion is scored after the *original* prompt. By default it takes the most probable token,
because a sampled completion changes with any change, however small. The reward model is attacked through bad
completions (`agents.evaluation.reward_attacks`). Every attack has a blind twin: what the twin reaches is noise.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rlhf_envs.rewards.by_task import TaskRewards
from rlhf_envs.rewards.reward_model import RewardModel

from .evaluate import Judges, find_judges, judge_completions
from .generate import Completion, generate_in, held_out_indices
from .policy_attacks import ATTACKS, Budget, attack_policy
from .reward_attacks import RewardAttack, attack_reward_model
from .source import Source
from .statistics import Estimate, bootstrap_mean, check_episodes

__all__ = ["ATTACKS", "Budget", "PolicyAttack", "Robustness", "evaluate_robustness"]


@dataclass(frozen=True)
class PolicyAttack:
    """Hold what a policy writes after n attacked prompts, in the order of the clean completions.

    Attributes:
        kl: (n,) KL(pi(.|s) || pi(.|attacked s)) in nats, the mean over the tokens of the clean completion.
        prompts: the prompts as the policy read them; for attacks on embeddings, the original ones.
        completions: the completions; their `reward` is the environment's, for the original prompt.
        judges: (n,) each, scores of the completions after the original prompts.
    """

    kl: np.ndarray
    prompts: list[str] = field(repr=False)
    completions: list[Completion] = field(repr=False)
    judges: dict[str, np.ndarray] = field(repr=False)

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """Return the reward and every judge's score, (n,) each."""
        return {"reward": np.array([c.reward for c in self.completions]), **self.judges}


@dataclass(frozen=True)
class Robustness:
    """Hold the attacks on a policy and on its reward model.

    Attributes:
        clean, policy: the policy without an attack, whose `kl` is 0, and under each attack by name.
        reward_model: the attacks on the reward model, by name; empty if there was none, and `note` says why.
        thresholds: by score (the reward and each judge), the value from which on a completion is good.
    """

    source: str
    env_id: str
    seed: int
    budget: Budget
    clean: PolicyAttack
    policy: dict[str, PolicyAttack]
    reward_model: dict[str, RewardAttack]
    thresholds: dict[str, float]
    note: str = ""
    seconds: float = 0.0

    def estimates(self) -> dict[str, dict[str, Estimate]]:
        """Return estimates for every attack on the policy, with standard errors and bootstrap intervals over prompts.

        They are `kl`; the mean of the reward and of each judge's score after the attack; `<score>_change` from the
        clean completion of the same prompt; and `<score>_success`, the share of good completions that are no longer
        good.
        """
        found = {"clean": self._means(self.clean.scores)}
        for name, attack in self.policy.items():
            values = {"kl": attack.kl, **attack.scores}
            for score, after in attack.scores.items():
                before, threshold = self.clean.scores[score], self.thresholds[score]
                values[f"{score}_change"] = after - before
                if (good := before >= threshold).any():
                    values[f"{score}_success"] = after[good] < threshold
            found[name] = self._means(values)
        return found

    def reward_model_estimates(self) -> dict[str, dict[str, Estimate]]:
        """Return for every attack on the reward model the success rate, and the rise of its score and the judge's."""
        found = {}
        for name, attack in self.reward_model.items():
            reward, judge = attack.reward_after - attack.reward_before, attack.judge_after - attack.judge_before
            if len(attack.success):
                found[name] = self._means({"success": attack.success, "reward_change": reward, "judge_change": judge})
        return found

    def _means(self, values: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
        there = {name: per_prompt[~np.isnan(per_prompt)] for name, per_prompt in values.items()}
        return {name: bootstrap_mean(found, self.seed) for name, found in there.items() if len(found)}

    def to_dict(self, n_samples: int = 4) -> dict[str, Any]:
        """Return the JSON report, with the first `n_samples` texts of every attack."""
        samples = {
            name: [
                {"prompt": p, "clean": c.completion, "attacked": a.completion}
                for p, c, a in zip(attack.prompts, self.clean.completions, attack.completions, strict=True)
            ][:n_samples]
            for name, attack in self.policy.items()
        }
        lifted = {
            name: [
                {"prompt": attack.prompts[i], "before": attack.before[i], "after": attack.after[i]}
                for i in np.flatnonzero(attack.success)[:n_samples].tolist()
            ]
            for name, attack in self.reward_model.items()
        }
        policy, reward_model = (
            {name: {key: value.to_dict() for key, value in row.items()} for name, row in estimates.items()}
            for estimates in (self.estimates(), self.reward_model_estimates())
        )
        return {
            "source": self.source,
            "env": self.env_id,
            "episodes": len(self.clean.kl),
            "attacked_completions": {name: len(attack.success) for name, attack in self.reward_model.items()},
            "seed": self.seed,
            "budget": asdict(self.budget),
            "thresholds": self.thresholds,
            "policy": policy,
            "reward_model": reward_model,
            "note": self.note,
            "samples": {"policy": samples, "reward_model": lifted},
            "seconds": round(self.seconds, 3),
        }


def evaluate_robustness(
    source: Any,
    env_id: Any = "rlhf/Sentiment-v0",
    n_episodes: int = 128,
    budget: Budget | None = None,
    attacks: Sequence[str] = ATTACKS,
    split: str = "test",
    judges: Sequence[str] | Judges | None = None,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    trust: bool = False,
    deterministic: bool = True,
    decoding: Mapping[str, Any] | None = None,
    threshold: float = 0.0,
    judge_threshold: float = 0.5,
) -> Robustness:
    """Attack a policy on held-out prompts, and its reward model on what it wrote there.

    Arguments that are not listed here are as for `agents.evaluate`.

    Args:
        attacks: the attacks on the policy, some of `ATTACKS`.
        judges: as for `agents.evaluate`. The first one also watches the attack on the reward model.
        seed: the seed of the completions, the attacks and the bootstrap.
        deterministic: take the most probable token; else draw, with the same random numbers each time.
        decoding: `temperature`, `top_k` and `top_p` for a model or a run folder, by name. The gradients and the KL take
            the temperature into account.
        threshold: the reward from which on a completion is good; 0 is the mean of a normalised reward model.
        judge_threshold: the score from which on a completion is good for every judge.

    Raises:
        ValueError: an unknown attack, environment, split or judge, or a policy that cannot be attacked.
    """
    started = time.perf_counter()
    check_episodes(n_episodes)
    if unknown := [name for name in attacks if name not in ATTACKS]:
        raise ValueError(f"unknown attack {unknown[0]!r}: there are {', '.join(ATTACKS)}")
    budget = Budget() if budget is None else budget
    source = Source.of(source, trust)
    _check_attackable(source)
    if decoding and source.policy is not None:
        raise ValueError(f"{source.name} decodes as it was built; {dict(decoding)} go with a model or a run folder")
    source = source.with_decoding(decoding or {})
    batch = source.open_episodes(env_id, split, env_kwargs)
    scorers = find_judges(batch.task, judges)
    policy = source.build_policy(batch)
    indices = held_out_indices(batch, n_episodes)
    completions = generate_in(batch, policy, indices, seed, deterministic)
    prompts = [c.prompt for c in completions]
    clean = PolicyAttack(np.zeros(n_episodes), prompts, completions, judge_completions(scorers, completions))
    attacked = {}
    for name in attacks:
        kl, prompts, after = attack_policy(policy, batch, completions, name, budget, seed, deterministic)
        attacked[name] = PolicyAttack(kl, prompts, after, judge_completions(scorers, after))
    settings = {"budget": budget, "threshold": threshold, "judge_threshold": judge_threshold, "seed": seed}
    lifted, note = _attack_reward(batch.reward_fn, scorers, completions, **settings)
    return Robustness(
        source=source.name,
        env_id=env_id if isinstance(env_id, str) else batch.task.name,
        seed=seed,
        budget=budget,
        clean=clean,
        policy=attacked,
        reward_model=lifted,
        thresholds={"reward": threshold, **dict.fromkeys(scorers, judge_threshold)},
        note=note,
        seconds=time.perf_counter() - started,
    )


def _check_attackable(source: Source) -> None:
    """Raise ValueError for policies that do not write as the language model that the attacks differentiate."""
    if source.best_of > 1:
        raise ValueError(
            f"{source.name} keeps the best of {source.best_of} completions: attack a policy that writes one"
        )
    masked = source.masked or getattr(source.policy, "reads_action_masks", False)
    if masked or not getattr(source.policy, "is_language_model", True):
        raise ValueError(
            f"{source.name} does not write as its language model does (masks, or values): the attacks "
            "differentiate that model, and their metrics would describe another policy"
        )


def _attack_reward(
    reward: Any, judges: Judges, completions: list[Completion], **settings: Any
) -> tuple[dict[str, RewardAttack], str]:
    """Attack the reward model, also blindly; return the attacks by name, and a note if there was nothing to attack."""
    if not isinstance(reward, RewardModel):
        return {}, f"the reward model was not attacked: the reward is a {type(reward).__name__}, not learned"
    judge = next((judge for judge in judges.values() if not isinstance(judge, TaskRewards)), None)
    if judge is None:
        return {}, "the reward model was not attacked: no judge says whether a completion stays bad"
    texts = reward.as_texts([c.asked for c in completions], [c.answered for c in completions])
    found = {
        name: attack_reward_model(reward, judge, *texts, blind=blind, **settings)
        for name, blind in (("hotflip", False), ("random_swaps", True))
    }
    attacked = len(found["hotflip"].success)
    return found, "" if attacked else "the reward model was not attacked: no completion is below both thresholds"
