"""How robust are a trained policy and the reward model it was trained on: success rates of attacks on both.

The policy is attacked through held-out prompts (`agents.evaluation.policy_attacks`): their embeddings are changed a
little, or a few of their tokens swapped, so that it leaves the completion it would write; then it writes one after the
attacked prompt, and that is scored after the *original* prompt. By default it takes the most probable token, since a
sampled completion is another one after any change, however small. The reward model is attacked through bad completions
(`agents.evaluation.reward_attacks`). Every attack stands beside its blind twin: what that does is noise, not attack.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..core.adversarial import divergences, hidden_at
from ..core.episodes import open_batch
from ..core.random_state import isolated_generators
from .evaluate import _judge, _pad, find_judges
from .generate import Completion, generate_in, held_out_indices
from .policy_attacks import AttackedPolicy, Budget, attack_embeddings, attack_tokens
from .reward_attacks import RewardAttack, attack_reward_model
from .source import Source
from .statistics import Estimate, bootstrap_mean

if TYPE_CHECKING:
    from rlhf_envs.episodes import EpisodeBatch

    from ..core.base_policy import LanguageModelPolicy

__all__ = ["ATTACKS", "Budget", "PolicyAttack", "Robustness", "evaluate_robustness"]

ATTACKS = ("embeddings", "random_embeddings", "tokens", "random_tokens")
AT_ONCE = 64  # prompts attacked side by side


@dataclass(frozen=True)
class PolicyAttack:
    """What the policy writes after attacked prompts; (n,) arrays, in the order of the clean completions.

    Attributes:
        name: one of `ATTACKS`.
        kl: KL(pi(.|s) || pi(.|attacked s)), the mean over the clean completion's tokens, in nats.
        prompts: as the policy read them; of an attack on embeddings, the original ones.
        completions: their `reward` is the environment's, for the original prompt.
        judges: scores of the original prompts with these completions.
    """

    name: str
    kl: np.ndarray
    prompts: list[str] = field(repr=False)
    completions: list[Completion] = field(repr=False)
    judges: dict[str, np.ndarray] = field(repr=False)

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """The reward and every judge's score, (n,) each."""
        return {"reward": np.array([c.reward for c in self.completions]), **self.judges}


@dataclass(frozen=True)
class Robustness:
    """The attacks on a policy and on its reward model.

    Attributes:
        clean: the policy without an attack (its `kl` is 0).
        policy: the attacks on it, by name.
        reward_model: the attacks on the reward model, by name; empty where there is none or no judge, see `note`.
        thresholds: of the reward and of each judge: a completion at least there is good.
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
        """Per attack on the policy, with standard errors and bootstrap intervals over prompts.

        `kl`; for the reward and each judge its mean after the attack, `<name>_change` from the clean completion of the
        same prompt, and `<name>_success`: of the completions that were good, the share that is no longer.
        """
        found: dict[str, dict[str, Estimate]] = {"clean": self._means(self.clean)}
        for name, attack in self.policy.items():
            estimates = {"kl": bootstrap_mean(attack.kl, self.seed)} | self._means(attack)
            for score, after in attack.scores.items():
                before, threshold = self.clean.scores[score], self.thresholds[score]
                estimates[f"{score}_change"] = bootstrap_mean(after - before, self.seed)
                good = before >= threshold
                if good.any():
                    estimates[f"{score}_success"] = bootstrap_mean(after[good] < threshold, self.seed)
            found[name] = estimates
        return found

    def _means(self, attack: PolicyAttack) -> dict[str, Estimate]:
        return {score: bootstrap_mean(values, self.seed) for score, values in attack.scores.items()}

    def reward_model_estimates(self) -> dict[str, dict[str, Estimate]]:
        """Per attack on the reward model: the success rate, and how much its score and the judge's rise."""
        return {
            name: {
                "success": bootstrap_mean(attack.success, self.seed),
                "reward_change": bootstrap_mean(attack.reward_after - attack.reward_before, self.seed),
                "judge_change": bootstrap_mean(attack.judge_after - attack.judge_before, self.seed),
            }
            for name, attack in self.reward_model.items()
            if len(attack.success)
        }

    def to_dict(self, n_samples: int = 4) -> dict[str, Any]:
        """What goes into a JSON report."""
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
        return {
            "source": self.source,
            "env": self.env_id,
            "episodes": len(self.clean.kl),
            "attacked_completions": {name: len(attack.success) for name, attack in self.reward_model.items()},
            "seed": self.seed,
            "budget": asdict(self.budget),
            "thresholds": self.thresholds,
            "policy": _plain(self.estimates()),
            "reward_model": _plain(self.reward_model_estimates()),
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
    judges: Sequence[str] | Mapping[str, Callable[..., Any]] | None = None,
    seed: int = 0,
    env_kwargs: dict[str, Any] | None = None,
    trust: bool = False,
    deterministic: bool = True,
    decoding: Mapping[str, Any] | None = None,
    threshold: float = 0.0,
    judge_threshold: float = 0.5,
) -> Robustness:
    """Attack a policy on held-out prompts, and its reward model on what it wrote there.

    Args:
        source: as `agents.evaluate` takes it.
        env_id: an environment's id, or a text environment.
        n_episodes: prompts.
        budget: of the attackers.
        attacks: on the policy, of `ATTACKS`.
        split: of the task's data.
        judges: as `agents.evaluate` takes them. The first also watches the attack on the reward model.
        seed: of the completions, the attacks and the bootstrap.
        env_kwargs: further arguments of the environment.
        trust: load an SB3 zip, which holds pickles.
        deterministic: take the most probable token; else draw, with the same random numbers each time.
        decoding: `temperature`, `top_k`, `top_p` of a model or a run folder; a run's own by default, and 1 without any.
            Gradients and the KL know the temperature.
        threshold: a reward from which on a completion is good; 0 is the mean of a normalised reward model.
        judge_threshold: the same of every judge.

    Raises:
        ValueError: an unknown attack, environment, split or judge.
    """
    started = time.perf_counter()
    if n_episodes < 2:
        raise ValueError(f"n_episodes={n_episodes}: a standard error needs at least 2")
    if unknown := [name for name in attacks if name not in ATTACKS]:
        raise ValueError(f"unknown attack {unknown[0]!r}: there are {', '.join(ATTACKS)}")
    budget = Budget() if budget is None else budget
    source = Source.of(source, trust)
    _check_attackable(source)
    if decoding:
        if source.policy is not None:
            raise ValueError(f"{source.name} decodes as it was built; {dict(decoding)} go with a model or a run folder")
        source = replace(source, decoding={**source.decoding, **decoding})
    named = isinstance(env_id, str)
    options = {**source.environment_options(), "split": split, **(env_kwargs or {})} if named else {}
    batch = open_batch(env_id, 1, **options)
    scorers = find_judges(batch.task, judges)
    policy = source.build_policy(batch)
    indices = held_out_indices(len(batch.rows), n_episodes)
    completions = generate_in(batch, policy, indices, seed, deterministic)

    def judged(completions: list[Completion]) -> dict[str, np.ndarray]:
        return {name: _judge(judge, completions) for name, judge in scorers.items()}

    clean = PolicyAttack(
        "clean", np.zeros(n_episodes), [c.prompt for c in completions], completions, judged(completions)
    )
    attacked = {}
    for name in attacks:
        kl, prompts, after = _attack(policy, batch, completions, name, budget, seed, deterministic)
        attacked[name] = PolicyAttack(name, kl, prompts, after, judged(after))
    lifted, note = _attack_reward(batch, scorers, completions, budget, threshold, judge_threshold, seed)
    return Robustness(
        source=source.name,
        env_id=env_id if named else batch.task.name,
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
    """Refuse policies that write otherwise than as the language model that the attacks differentiate.

    Raises:
        ValueError: it is such a policy.
    """
    if source.best_of > 1:
        raise ValueError(
            f"{source.name} keeps the best of {source.best_of} completions: attack a policy that writes one"
        )
    masked = source.masked or getattr(source.policy, "reads_action_masks", False)
    if masked or not getattr(source.policy, "is_language_model", True):
        raise ValueError(
            f"{source.name} does not write as its language model does (masks, or values): the attacks "
            "differentiate that model, and their figures would be of another policy"
        )


def _attack(
    policy: LanguageModelPolicy,
    batch: EpisodeBatch,
    completions: list[Completion],
    name: str,
    budget: Budget,
    seed: int,
    deterministic: bool,
) -> tuple[np.ndarray, list[str], list[Completion]]:
    """One attack on every prompt: KL (n,), the prompts as they were read, and what was written after them."""
    kls, prompts, after = [], [], []
    for start in range(0, len(completions), AT_ONCE):
        chosen = completions[start : start + AT_ONCE]
        ids, mask, rows, columns = (torch.as_tensor(array, device=policy.device) for array in _pad(chosen))
        obs = {"input_ids": ids, "attention_mask": mask, "rows": rows, "columns": columns}
        lengths = torch.tensor([int(c.columns[0]) + 1 for c in chosen], device=policy.device)
        where = torch.arange(ids.shape[1], device=policy.device) < lengths[:, None]
        blind = name.startswith("random")
        changed: dict[str, torch.Tensor] = {}
        with isolated_generators(seed + start):
            if name.endswith("embeddings"):
                changed["delta"] = attack_embeddings(policy, obs, where, budget, blind)
            else:
                banned = getattr(batch.tokenizer, "all_special_ids", None) or [batch.tokenizer.eos_token_id]
                actions = ids[rows, columns + 1]
                changed["ids"] = attack_tokens(policy, obs, actions, where, budget, banned, blind)
        kls.append(_mean_kl(policy, obs, changed, len(chosen)))
        prompts += _prompts_read(batch, chosen, lengths, changed.get("ids"))
        indices = np.array([c.index for c in chosen])
        after += generate_in(batch, AttackedPolicy(policy, where, **changed), indices, seed, deterministic, start)
    return np.concatenate(kls), prompts, after


@torch.no_grad()
def _mean_kl(
    policy: LanguageModelPolicy, obs: dict[str, torch.Tensor], changed: dict[str, torch.Tensor], n: int
) -> np.ndarray:
    """The mean KL of each episode's actions, (n,)."""
    other = obs | ({"input_ids": changed["ids"]} if "ids" in changed else {})
    kl = divergences(policy, hidden_at(policy, obs), hidden_at(policy, other, changed.get("delta")))
    total = torch.zeros(n, device=kl.device).index_add(0, obs["rows"], kl)
    return (total / torch.bincount(obs["rows"], minlength=n)).double().cpu().numpy()


def _prompts_read(
    batch: EpisodeBatch, completions: list[Completion], lengths: torch.Tensor, ids: torch.Tensor | None
) -> list[str]:
    if ids is None:
        return [c.prompt for c in completions]
    return [str(batch.tokenizer.decode(row[:n])) for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)]


def _attack_reward(
    batch: EpisodeBatch,
    judges: Mapping[str, Callable[..., Any]],
    completions: list[Completion],
    budget: Budget,
    threshold: float,
    judge_threshold: float,
    seed: int,
) -> tuple[dict[str, RewardAttack], str]:
    """The attack on the reward model and its blind twin; or none, and why."""
    from rlhf_envs.rewards.reward_model import RewardModel

    if not isinstance(batch.reward_fn, RewardModel):
        return {}, f"the reward model was not attacked: the reward is a {type(batch.reward_fn).__name__}, not learned"
    if not judges:
        return {}, "the reward model was not attacked: no judge says whether a completion stays bad"
    judge = next(iter(judges.values()))
    texts = ([c.prompt for c in completions], [c.completion for c in completions])
    found = [
        attack_reward_model(batch.reward_fn, judge, *texts, budget, threshold, judge_threshold, blind=blind, seed=seed)
        for blind in (False, True)
    ]
    m = len(found[0].success)
    note = "" if m else "the reward model was not attacked: no completion is below both thresholds"
    return {attack.name: attack for attack in found}, note


def _plain(estimates: dict[str, dict[str, Estimate]]) -> dict[str, dict[str, dict[str, float]]]:
    return {name: {key: value.to_dict() for key, value in row.items()} for name, row in estimates.items()}
