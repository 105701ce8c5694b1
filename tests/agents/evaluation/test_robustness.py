"""Attacks on a policy and on a reward model: they stay within their budget, and do more than their blind twins."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import agents
from agents.cli import app
from agents.core.adversarial import radius_of
from agents.core.episodes import open_batch
from agents.evaluation.generate import generate_in, held_out_indices, pad_completions
from agents.evaluation.policy_attacks import (
    AttackedPolicy,
    Budget,
    attack_embeddings,
    attack_tokens,
    best_swaps,
    random_swaps,
)
from agents.evaluation.reward_attacks import attack_reward_model
from agents.evaluation.robustness import ATTACKS, Robustness, evaluate_robustness
from agents.evaluation.source import Source
from agents.evaluation.statistics import bootstrap_mean

SENTIMENT = "rlhf/Sentiment-v0"
SMALL = Budget(epsilon=0.2, steps=3, swaps=2, candidates=6)


@pytest.fixture(scope="module")
def written() -> Any:
    """The tiny model's policy and batch, its completions of a few prompts, and those as `evaluate_actions` has them."""
    batch = open_batch(SENTIMENT, 1, split="test", max_new_tokens=8)
    policy = Source.of("tiny").build_policy(batch)
    completions = generate_in(batch, policy, held_out_indices(len(batch.rows), 12), 0, True)
    obs = pad_completions(completions)
    ids, _, rows, columns = obs.values()
    lengths = torch.tensor([int(c.columns[0]) + 1 for c in completions])
    where = torch.arange(ids.shape[1]) < lengths[:, None]
    return batch, policy, completions, obs, ids[rows, columns + 1], where


@pytest.fixture(scope="module")
def robustness() -> Robustness:
    return evaluate_robustness("tiny", SENTIMENT, 24, SMALL, env_kwargs={"max_new_tokens": 8})


def likelihoods(policy: Any, obs: dict[str, torch.Tensor], actions: torch.Tensor, delta: Any = 0.0) -> torch.Tensor:
    """Log-likelihoods (batch,) of the completions by the Hugging Face model itself."""
    model = policy.language_model.model
    embedded = model.get_input_embeddings()(obs["input_ids"]) + delta
    with torch.no_grad():
        logits = model(inputs_embeds=embedded, attention_mask=obs["attention_mask"]).logits
    log_probs = logits.log_softmax(-1)[obs["rows"], obs["columns"]].gather(1, actions[:, None]).squeeze(1)
    return torch.zeros(len(embedded)).index_add(0, obs["rows"], log_probs)


# The attacks on the policy


def test_the_change_of_embeddings_is_on_the_prompts_and_within_its_norm(written: Any) -> None:
    _, policy, _, obs, _, where = written
    radius = radius_of(policy, SMALL.epsilon)
    for blind in (False, True):
        delta = attack_embeddings(policy, obs, where, SMALL, blind)
        norms = delta.norm(dim=-1)
        assert (norms[~where] == 0).all()
        assert (norms[where] <= radius * (1 + 1e-5)).all() and norms[where].mean() > 0.5 * radius


def test_the_gradient_makes_completions_less_likely_than_noise_does(written: Any) -> None:
    _, policy, _, obs, actions, where = written
    torch.manual_seed(0)
    clean = likelihoods(policy, obs, actions)
    found, noise = (
        clean - likelihoods(policy, obs, actions, attack_embeddings(policy, obs, where, SMALL, b)) for b in (0, 1)
    )
    assert found.mean() > 3 * abs(noise.mean()) and found.mean() > 0.5


def test_tokens_are_swapped_in_the_prompt_alone_and_no_more_than_allowed(written: Any) -> None:
    batch, policy, _, obs, actions, where = written
    banned = batch.tokenizer.all_special_ids
    for blind in (False, True):
        torch.manual_seed(0)
        ids = attack_tokens(policy, obs, actions, where, SMALL, banned, blind)
        changed = ids != obs["input_ids"]
        assert not (changed & ~where).any()
        assert 0 < changed.sum(dim=1).max() <= SMALL.swaps
        assert not np.isin(ids[changed].numpy(), banned).any()
        fall = likelihoods(policy, obs, actions) - likelihoods(policy, obs | {"input_ids": ids}, actions)
        assert (fall >= -1e-4).all() and fall.mean() > 0.5, "a swap is made only where it does harm"


def test_the_first_swap_proposed_is_the_best_to_first_order() -> None:
    generator = torch.Generator().manual_seed(0)
    gradient, vectors = torch.randn(3, 5, 7, generator=generator), torch.randn(11, 7, generator=generator)
    ids = torch.randint(11, (3, 5), generator=generator)
    where = torch.tensor([[True] * 3 + [False] * 2, [False, True, True, True, False], [True] + [False] * 4])
    allowed = torch.ones(11, dtype=torch.bool)
    allowed[[0, 4]] = False
    swaps = best_swaps(gradient, ids, where, vectors, allowed, 6)
    assert len(swaps) == 6
    for row in range(3):
        best = max(
            (float(gradient[row, i] @ (vectors[v] - vectors[ids[row, i]])), i, v)
            for i in range(5)
            for v in range(11)
            if where[row, i] and allowed[v] and v != ids[row, i]
        )
        assert (int(swaps[0][0][row]), int(swaps[0][1][row])) == best[1:]
    for positions, tokens in [*swaps, *random_swaps(where, allowed, 50)]:
        assert where.gather(1, positions[:, None]).all() and allowed[tokens].all()


def test_a_policy_that_is_not_changed_writes_what_it_wrote(written: Any) -> None:
    batch, policy, completions, obs, _, where = written
    indices = np.array([c.index for c in completions])
    nothing = [
        AttackedPolicy(policy, where, delta=torch.zeros(*where.shape, 256)),
        AttackedPolicy(policy, where, ids=obs["input_ids"]),
    ]
    for same in nothing:
        again = generate_in(batch, same, indices, 0, True)
        assert [c.completion for c in again] == [c.completion for c in completions]


def test_swapped_prompts_are_what_the_policy_reads_and_not_what_the_reward_reads(written: Any) -> None:
    batch, policy, completions, obs, actions, where = written
    torch.manual_seed(0)
    ids = attack_tokens(policy, obs, actions, where, SMALL, batch.tokenizer.all_special_ids)
    indices = np.array([c.index for c in completions])
    attacked = generate_in(batch, AttackedPolicy(policy, where, ids=ids), indices, 0, True)
    assert [c.prompt for c in attacked] == [c.prompt for c in completions]
    for row, c in enumerate(attacked):  # by greedy decoding of the swapped prompt with Hugging Face's own generate
        prompt = ids[row, : int(where[row].sum())][None]
        with torch.no_grad():
            new = policy.language_model.model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False, pad_token_id=0
            )[0, prompt.shape[1] :]
        assert c.input_ids[len(c.input_ids) - len(c.columns) :].tolist() == new[: len(c.columns)].tolist()
    reward = batch.reward_fn([c.prompt for c in completions], [c.completion for c in attacked])
    assert [c.reward for c in attacked] == pytest.approx(list(reward), abs=1e-4)


# The attack on the reward model


def test_lifted_completions_are_what_both_models_say_they_are(written: Any) -> None:
    from rlhf_envs.rewards import get_reward

    batch, _, completions, *_ = written
    gold, reward = get_reward("gold"), batch.reward_fn
    prompts = ["this film is", "i saw it and", *(c.prompt for c in completions)]
    texts = [" the worst, a bad and boring mess.", " hated it, a waste of time.", *(c.completion for c in completions)]
    attack = attack_reward_model(reward, gold, prompts, texts, Budget(swaps=3, candidates=12), blind=False)
    before, verdicts = reward.score(prompts, texts), gold(prompts, texts)
    kept = [i for i in range(len(texts)) if before[i] < 0 and verdicts[i] < 0.5]
    assert attack.before == [texts[i] for i in kept] and len(kept) >= 2
    np.testing.assert_allclose(attack.reward_after, reward.score(attack.prompts, attack.after), atol=1e-4)
    np.testing.assert_allclose(attack.judge_after, gold(attack.prompts, attack.after), atol=1e-9)
    assert (attack.judge_after < 0.5).all(), "the judge still calls them bad"
    assert (attack.reward_after > attack.reward_before).all()
    np.testing.assert_array_equal(attack.success, attack.reward_after >= 0)
    again = attack_reward_model(reward, gold, prompts, texts, Budget(swaps=3, candidates=12), blind=False)
    assert again.after == attack.after


def test_the_gradient_lifts_the_reward_more_than_chance_does() -> None:
    from rlhf_envs.rewards import get_reward

    gold, reward = get_reward("gold"), get_reward("tiny-reward")
    prompts = ["this film is", "i saw it and", "the plot", "the actors", "all in all"]
    texts = [
        " the worst, a bad and boring mess.",
        " hated it, a waste of time.",
        " is terrible and the ending is awful.",
        " are bad, so bad that i left.",
        " a stupid movie with nothing to say.",
    ]
    rises = [
        attack_reward_model(reward, gold, prompts, texts, Budget(swaps=2, candidates=16), blind=blind)
        for blind in (False, True)
    ]
    means = [(attack.reward_after - attack.reward_before).mean() for attack in rises]
    assert means[0] > means[1] > 0


# The evaluation


def test_the_figures_are_those_of_the_episodes(robustness: Robustness) -> None:
    assert tuple(robustness.policy) == ATTACKS
    estimates = robustness.estimates()
    for name, attack in robustness.policy.items():
        before, after = robustness.clean.scores["gold"], attack.scores["gold"]
        assert estimates[name]["gold_change"].mean == pytest.approx((after - before).mean())
        good = before >= 0.5
        assert estimates[name]["gold_success"] == bootstrap_mean(after[good] < 0.5, 0)
        assert (attack.kl > 0).any() and attack.kl.shape == (24,)
        assert [c.index for c in attack.completions] == [c.index for c in robustness.clean.completions]
    assert estimates["embeddings"]["kl"].mean > 5 * estimates["random_embeddings"]["kl"].mean
    for name, row in robustness.reward_model_estimates().items():
        assert row["success"].mean == robustness.reward_model[name].success.mean()


def test_it_is_the_same_each_time_and_leaves_the_generators_alone(robustness: Robustness, written: Any) -> None:
    policy = written[1]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = evaluate_robustness(policy, SENTIMENT, 24, SMALL, env_kwargs={"max_new_tokens": 8})
    assert torch.equal(state, torch.get_rng_state())
    one, other = (
        {key: value for key, value in r.to_dict().items() if key not in ("seconds", "source")}
        for r in (robustness, again)
    )
    assert json.dumps(one) == json.dumps(other)


def test_without_a_reward_model_or_judge_the_policy_alone_is_attacked() -> None:
    robustness = evaluate_robustness(
        Source.of("tiny").model,
        SENTIMENT,
        4,
        SMALL,
        ["tokens"],
        env_kwargs={"max_new_tokens": 4, "reward": "repetition-penalty"},
    )
    assert robustness.reward_model == {} and "the reward is a" in robustness.note
    assert list(robustness.policy) == ["tokens"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attacks": ["tickle"]}, "unknown attack 'tickle': there are embeddings"),
        ({"n_episodes": 1}, "a standard error needs at least 2"),
    ],
)
def test_nonsense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_robustness("tiny", SENTIMENT, **settings)


def test_a_policy_decodes_as_it_was_built(written: Any) -> None:
    with pytest.raises(ValueError, match="decodes as it was built"):
        evaluate_robustness(written[1], SENTIMENT, 4, SMALL, decoding={"temperature": 0.5})


@pytest.mark.parametrize("wrong", [{"epsilon": 0.0}, {"steps": 0}, {"swaps": 0}, {"candidates": 0}])
def test_a_budget_of_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Budget(**wrong)


def test_the_verb_prints_tables_and_writes_json(tmp_path: Any) -> None:
    arguments = ["attack", "tiny", "-n", "6", "--steps", "2", "--swaps", "1", "--candidates", "2"]
    arguments += ["--env-kwargs", "max_new_tokens:4", "-o", str(tmp_path / "attack.json")]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "250"})
    assert result.exit_code == 0, result.output
    assert "attack on the policy" in result.output and "random embeddings" in result.output
    report = json.loads((tmp_path / "attack.json").read_text())
    assert report["budget"] == {"epsilon": 0.1, "steps": 2, "swaps": 1, "candidates": 2}
    assert set(report["policy"]) == {"clean", *ATTACKS}
    wrong = CliRunner().invoke(app, ["attack", "tiny", "--attack", "tickle"], env={"COLUMNS": "250"})
    assert wrong.exit_code == 2 and "unknown attack 'tickle'" in wrong.output


def test_policies_that_do_not_write_as_their_model_are_refused():
    """The attacks differentiate the language model: of another policy they would measure nothing."""
    best = agents.make("best_of_n", "rlhf/TokenBandit-v0", n_envs=2, best_of=4)
    with pytest.raises(ValueError, match="keeps the best of 4 completions"):
        agents.evaluate_robustness(best, "rlhf/TokenBandit-v0", n_episodes=2)
    for name in ("dqn", "maskable_ppo", "nlpo"):
        with pytest.raises(ValueError, match="does not write as its language model does"):
            agents.evaluate_robustness(
                agents.make(name, "rlhf/TokenBandit-v0", n_envs=2), "rlhf/TokenBandit-v0", n_episodes=2
            )
