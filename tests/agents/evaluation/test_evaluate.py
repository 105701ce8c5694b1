from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from agents import make, make_vec_env, save
from agents.core.episodes import open_batch
from agents.core.policy import TokenPolicy
from agents.evaluation.evaluate import evaluate
from agents.evaluation.generate import generate, held_out_indices, pad_completions
from agents.evaluation.source import Source
from agents.training.config import TrainConfig
from agents.training.run import evaluate_held_out
from rlhf_envs.rewards import FunctionReward

BANDIT = "rlhf/TokenBandit-v0"
SENTIMENT = dict(env_kwargs={"reward_fn": lambda prompts, completions, **_: [float(len(c)) for c in completions]})


@pytest.fixture(scope="module")
def agent() -> Any:
    torch.manual_seed(0)
    return make("ppo", BANDIT, n_envs=16, seed=0, learning_rate=1e-2, batch_size=48, kl_coef=0.0)


@pytest.fixture(scope="module")
def trained() -> Any:
    torch.manual_seed(0)
    agent = make("ppo", BANDIT, n_envs=64, seed=0, learning_rate=3e-3, batch_size=96, kl_coef=0.0)
    return agent.learn(4000)


# Generation


def test_an_environment_opened_by_its_id_takes_the_arguments_of_its_task() -> None:
    batch = open_batch("rlhf/ChineseReview-v0", 1, mode="continue")
    assert batch.max_new_tokens == 40 and batch.rows[0]["reference"]
    with pytest.raises(TypeError, match="the environment takes no argument 'mod'; did you mean 'mode'"):
        open_batch("rlhf/ChineseReview-v0", 1, mod="continue")


def test_completions_come_in_the_order_of_the_indices(agent: Any) -> None:
    completions = generate(agent, BANDIT, indices=[3, 0, 3, 2])
    assert [c.index for c in completions] == [3, 0, 3, 2]
    assert [c.prompt for c in completions] == ["d", "a", "d", "c"]


def test_a_completion_does_not_depend_on_what_runs_beside_it(agent: Any) -> None:
    alone = [generate(agent, BANDIT, indices=[0, 1, 2, 3][: k + 1], seed=5)[k] for k in range(4)]
    together = generate(agent, BANDIT, indices=[0, 1, 2, 3] * 80, seed=5)  # more than one chunk
    assert [c.completion for c in alone] == [c.completion for c in together[:4]]
    assert len({c.completion for c in together}) > 20


def test_the_seed_decides(agent: Any) -> None:
    first, again, other = (generate(agent, BANDIT, n_prompts=32, seed=seed) for seed in (1, 1, 2))
    assert [c.completion for c in first] == [c.completion for c in again] != [c.completion for c in other]


def test_nothing_that_was_written_stays_in_the_cache(agent: Any) -> None:
    generate(agent, BANDIT, n_prompts=16)  # as many as the agent has environments
    assert not agent.policy._actor.cache._layers


def test_samples_follow_the_policys_distribution(trained: Any) -> None:
    completions = generate(trained, BANDIT, indices=[1] * 2000)
    first = np.bincount([c.input_ids[1] for c in completions], minlength=8)
    batch = open_batch(BANDIT, 1)
    batch.start(0, 1)
    observation = {key: torch.as_tensor(array) for key, array in batch.observe().items()}
    expected = trained.policy.get_distribution(observation).distribution.probs[0].detach().double().numpy()
    seen = expected > 1e-3  # chi-squared wants a few of each
    assert first[~seen].sum() < 20
    expected = expected[seen] / expected[seen].sum() * first[seen].sum()
    assert stats.chisquare(first[seen], expected).pvalue > 1e-3


def test_deterministic_takes_the_most_probable_token(agent: Any) -> None:
    completion = generate(agent, BANDIT, indices=[2], deterministic=True)[0]
    observation = {"input_ids": np.zeros((1, 4), np.int64), "attention_mask": np.zeros((1, 4), np.int8)}
    for column in completion.columns:
        observation["input_ids"][0, : column + 1] = completion.input_ids[: column + 1]
        observation["attention_mask"][0, : column + 1] = 1
        action, _ = agent.predict(observation, deterministic=True)
        assert action[0] == completion.input_ids[column + 1]


def test_log_probs_are_the_policys_own(agent: Any) -> None:
    for c in generate(agent, BANDIT, n_prompts=8):
        ids = torch.as_tensor(c.input_ids)[None]
        logits = agent.policy.language_model.model(input_ids=ids).logits[0, c.columns].log_softmax(-1)
        expected = logits[range(len(c.columns)), c.input_ids[c.columns + 1]]
        np.testing.assert_allclose(c.log_probs, expected.detach().numpy(), atol=1e-5)


def test_a_text_environment_lends_its_task_data_and_reward(agent: Any) -> None:
    def half(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        return [0.5] * len(prompts)

    env = make_vec_env(BANDIT, 2, data=[{"prompt": "b"}], reward_fn=half)
    completions = generate(agent, env, n_prompts=3)
    assert [(c.prompt, c.reward) for c in completions] == [("b", 0.5)] * 3


def test_held_out_indices_are_the_same_ones_and_all_different() -> None:
    indices = held_out_indices(1000, 256)
    assert len(set(indices)) == 256
    assert (held_out_indices(1000, 64) == indices[:64]).all()
    assert sorted(held_out_indices(4, 8)) == [0, 0, 1, 1, 2, 2, 3, 3]


# Evaluation


def test_the_untouched_model_is_its_own_reference(agent: Any) -> None:
    evaluation = evaluate(agent, BANDIT, n_episodes=40)
    assert evaluation.kl is not None
    np.testing.assert_allclose(evaluation.kl, 0.0, atol=1e-5)


def test_kl_is_the_log_ratio_of_two_full_recomputes(trained: Any) -> None:
    evaluation = evaluate(trained, BANDIT, n_episodes=24)
    model, reference = trained.policy.language_model, trained.policy.reference.parameters_by_name()
    assert evaluation.kl is not None
    assert evaluation.nll is not None
    assert evaluation.kl.mean() > 0.1
    for i, c in enumerate(evaluation.completions):
        inputs = torch.as_tensor(c.input_ids)[None], torch.ones(1, len(c.input_ids), dtype=torch.long)
        where = torch.zeros(len(c.columns), dtype=torch.long), torch.as_tensor(c.columns)
        tokens = range(len(c.columns)), c.input_ids[c.columns + 1]
        with torch.no_grad():
            ours = model.logits(*inputs, *where).log_softmax(-1)[tokens].sum().item()
            logits = torch.func.functional_call(model, reference, (model.logits, *inputs, *where))
            theirs = logits.log_softmax(-1)[tokens].sum().item()
        assert evaluation.kl[i] == pytest.approx(ours - theirs, abs=1e-4)
        assert evaluation.nll[i] == pytest.approx(-theirs, abs=1e-4)


def test_perplexity_is_the_exponential_of_hugging_faces_loss() -> None:
    evaluation = evaluate("tiny", n_episodes=6, judges=(), **SENTIMENT)
    from rlhf_envs.models import load_causal_lm

    model, losses, tokens = load_causal_lm("tiny"), 0.0, 0
    for c in evaluation.completions:
        ids = torch.as_tensor(c.input_ids)[None]
        labels = ids.clone()
        labels[:, : c.columns[0] + 1] = -100
        with torch.no_grad():
            losses += model(input_ids=ids, labels=labels).loss.item() * len(c.columns)
        tokens += len(c.columns)
    assert evaluation.reference == "tiny"
    assert evaluation.estimates()["perplexity"].mean == pytest.approx(math.exp(losses / tokens), rel=1e-4)


def test_temperature_enters_the_kl_on_both_sides_but_not_the_perplexity() -> None:
    batch = open_batch("rlhf/Sentiment-v0", 1, **SENTIMENT["env_kwargs"])
    cold = TokenPolicy(batch.observation_space, batch.action_space, lambda _: 0.0, model="tiny", temperature=0.5)
    warm = TokenPolicy(batch.observation_space, batch.action_space, lambda _: 0.0, model="tiny")
    first, second = (evaluate(p, n_episodes=16, judges=(), **SENTIMENT) for p in (cold, warm))
    assert first.kl is not None
    np.testing.assert_allclose(first.kl, 0.0, atol=1e-4)
    assert first.estimates()["perplexity"].mean < second.estimates()["perplexity"].mean / 2
    # Decoding found the perplexity on the way; a pass over the finished texts agrees.
    rows, columns = (obs := pad_completions(first.completions))["rows"], obs["columns"]
    logits = cold.reference_logits(*obs.values()).log_softmax(-1)
    taken = logits.gather(1, obs["input_ids"][rows, columns + 1][:, None]).squeeze(1)
    assert first.nll is not None
    np.testing.assert_allclose(first.nll, -torch.zeros(16).index_add(0, rows, taken), rtol=1e-4)


def test_rewards_components_judges_and_columns_arrive(agent: Any) -> None:
    seen: dict[str, Any] = {}

    def judge(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        seen.update(columns)
        return [float(len(c.split())) for c in completions]

    rows = [{"prompt": "a", "label": 1, "split": "test"}, {"prompt": "b", "label": 2, "split": "test"}]
    evaluation = evaluate(agent, BANDIT, n_episodes=4, judges={"words": judge}, env_kwargs={"data": rows})
    assert sorted(seen["label"]) == [1, 1, 2, 2]
    np.testing.assert_array_equal(
        evaluation.judges["words"], [len(c.completion.split()) for c in evaluation.completions]
    )
    np.testing.assert_allclose(evaluation.reward, evaluation.components["token-bandit"])
    assert set(evaluation.estimates()) == {
        "reward", "words", "kl", "length", "eos_share", "distinct_within", "perplexity", "distinct_bigrams"
    }  # fmt: skip


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_run_is_evaluated_on_the_split_it_names(split: Any, tmp_path: Path) -> None:
    found = evaluate_held_out(TrainConfig(test_split=split, test_episodes=8), "tiny", tmp_path)
    rows = open_batch("rlhf/Sentiment-v0", 1, split=split).rows
    assert found.split == split
    assert [c.prompt for c in found.completions] == [rows[c.index]["prompt"].lower() for c in found.completions]


def test_prompts_are_called_held_out_only_if_none_of_them_was_trained_on(agent: Any) -> None:
    rows = [{"prompt": "a", "split": "train"}, {"prompt": "b", "split": "test"}, {"prompt": "c", "split": "test"}]
    options: Any = dict(n_episodes=4, judges=())
    assert evaluate(agent, BANDIT, **options).prompts == "training prompts", "all splits of this task are the same"
    other = make("ppo", make_vec_env(BANDIT, 4, data=rows), device="cpu")
    assert evaluate(other, BANDIT, **options, env_kwargs={"data": rows}).prompts == "held-out prompts"
    found = evaluate(other, BANDIT, **options, split="train", env_kwargs={"data": rows})
    assert found.prompts == found.to_dict()["prompts"] == "training prompts"
    assert evaluate(other, other.get_env(), **options).prompts == "training prompts"


def test_prompts_of_other_data_are_compared_with_what_a_run_was_trained_on(tmp_path: Path, agent: Any) -> None:
    rows = [{"prompt": "a", "split": "train"}, {"prompt": "b", "split": "test"}]
    other = [{"prompt": "a", "split": "test"}, {"prompt": "d", "split": "test"}]
    trained = make("ppo", make_vec_env(BANDIT, 4, data=rows), device="cpu")
    save(trained, tmp_path / "bundle")
    for source in (trained, tmp_path / "bundle"):
        found = evaluate(source, BANDIT, n_episodes=4, judges=(), env_kwargs={"data": other})
        assert found.prompts == "prompts (2 of 4 are training prompts)"
        assert evaluate(source, BANDIT, n_episodes=4, judges=(), env_kwargs={"data": rows}).prompts[:8] == "held-out"


def test_a_reward_that_a_runs_file_names_is_not_imported(tmp_path: Path, agent: Any) -> None:
    agent.policy.save_pretrained(tmp_path / "model")
    run = {"env": BANDIT, "algo": "ppo", "env_kwargs": {"reward": "no_such_module:reward"}}
    (tmp_path / "config.json").write_text(json.dumps(run))
    with pytest.raises(ValueError, match="'no_such_module:reward' is not imported just because a run's file names it"):
        evaluate(tmp_path, BANDIT, n_episodes=4)
    found = evaluate(tmp_path, BANDIT, n_episodes=4, env_kwargs={"reward": "rlhf_envs.rewards.rules:TokenBanditReward"})
    assert list(found.components) == ["token-bandit"]


def test_sentiment_is_judged_by_gold() -> None:
    evaluation = evaluate("tiny", n_episodes=4, **SENTIMENT)
    assert list(evaluation.judges) == ["gold"]
    assert list(evaluation.judge_parts) == ["gold_meaning", "gold_language"]
    product = evaluation.judge_parts["gold_meaning"] * evaluation.judge_parts["gold_language"]
    np.testing.assert_allclose(evaluation.judges["gold"], product)
    assert {"gold_meaning", "gold_language"} < evaluation.estimates().keys()
    assert ((evaluation.judges["gold"] > 0) & (evaluation.judges["gold"] < 1)).all()


def test_lengths_count_the_agents_tokens_and_eos_is_one_of_them(agent: Any) -> None:
    evaluation = evaluate(agent, BANDIT, n_episodes=64)
    for c, length, eos in zip(evaluation.completions, evaluation.length, evaluation.eos, strict=True):
        assert length == len(c.input_ids) - 1 == len(c.completion.split()) + (c.input_ids[1:] <= 1).sum()
        assert eos == (c.input_ids[-1] == 1)
    assert 0 < evaluation.eos.mean() < 1


def test_before_and_after_pair_up(agent: Any, trained: Any) -> None:
    before, after = (evaluate(a, BANDIT, n_episodes=60) for a in (agent, trained))
    change = after.change_from(before)["reward"]
    differences = after.reward - before.reward
    assert change.mean == pytest.approx(differences.mean())
    assert change.sem == pytest.approx(stats.sem(differences))
    assert change.low > 0  # it has learned
    with pytest.raises(ValueError, match="different prompts"):
        after.change_from(evaluate(agent, BANDIT, n_episodes=50))


def test_a_saved_policy_evaluates_like_the_live_one(trained: Any, tmp_path: Path) -> None:
    trained.policy.save_pretrained(tmp_path / "model")
    live, saved = (evaluate(s, BANDIT, n_episodes=20) for s in (trained, tmp_path / "model"))
    assert [c.completion for c in live.completions] == [c.completion for c in saved.completions]
    assert saved.kl is None  # a fresh model's folder does not say what it started from


def test_an_sb3_zip_needs_trust(trained: Any, tmp_path: Path) -> None:
    trained.save(tmp_path / "agent")
    with pytest.raises(ValueError, match="pickles"):
        evaluate(tmp_path / "agent.zip", BANDIT)
    live, saved = evaluate(trained, BANDIT, n_episodes=20), evaluate(tmp_path / "agent.zip", BANDIT, 20, trust=True)
    np.testing.assert_allclose(live.kl, saved.kl, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "kwargs", "message"),
    [
        ("nothing-like-this", {}, "unknown model"),
        (object(), {}, "cannot evaluate a object"),
        ("tiny", {"env_id": "rlhf/Nothing-v0"}, "rlhf/Sentiment-v0"),
        ("tiny", {"judges": ("nobody",)}, "unknown reward 'nobody'"),
        ("tiny", {"split": "nowhere"}, "nowhere"),
        ("tiny", {"n_episodes": 1}, "at least 2"),
    ],
)
def test_bad_input_is_named(source: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(source, **kwargs)


def test_a_policy_with_another_vocabulary_is_refused(agent: Any) -> None:
    with pytest.raises(ValueError, match="8 tokens and the environment has 32"):
        evaluate(agent, "rlhf/IncreasingNumbers-v0")


def test_a_policy_is_found_behind_its_agent(agent: Any) -> None:
    assert Source.of(agent).policy is Source.of(agent.policy).policy is agent.policy


def test_the_model_that_is_trained_in_place_is_no_reference(agent: Any) -> None:
    with pytest.raises(ValueError, match=r"the model that the agent trains in place, so its KL would be 0: leave"):
        evaluate(agent, BANDIT, 2, reference=agent.policy.language_model.model)
    copied = copy.deepcopy(agent.policy.language_model.model)
    assert evaluate(agent, BANDIT, 2, reference=copied).kl == pytest.approx(np.zeros(2), abs=1e-5)


def test_a_part_that_does_not_apply_counts_in_no_mean(agent: Any) -> None:
    def short(prompts: list[str], completions: list[str], **columns: Any) -> list[float | None]:
        return [1.0 if len(completion) < 5 else None for completion in completions]

    def length(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        return [float(len(ids)) for ids in completion_ids]

    env = make_vec_env(BANDIT, 2, reward_fn=FunctionReward(short) + 0 * FunctionReward(length))
    found = evaluate(agent, env, 16, judges={"tokens": length})
    applies = ~np.isnan(found.components["short"])
    assert 0 < applies.sum() < 16
    assert found.reward.tolist() == applies.astype(float).tolist(), "None counts as 0 in the reward"
    estimate = found.estimates()["reward_short"]
    assert (estimate.mean, estimate.n) == (1.0, applies.sum())
    assert found.judges["tokens"].tolist() == found.length.tolist() == found.components["length"].tolist()


def test_the_data_and_the_reward_of_a_run_are_for_its_own_environment_alone() -> None:
    own = {"data": [{"prompt": "a film", "split": "test"}], "reward": "repetition", "max_new_tokens": 5}
    source = Source("a run", model="tiny", env_id="rlhf/Prompts-v0", env_kwargs=own)
    at_home = source.open_episodes("rlhf/Prompts-v0", "test")
    assert ([row["prompt"] for row in at_home.rows], at_home.max_new_tokens) == (["a film"], 5)
    elsewhere, usual = (
        source.open_episodes("rlhf/Sentiment-v0", "test"),
        open_batch("rlhf/Sentiment-v0", 1, model="tiny", split="test"),
    )
    assert elsewhere.rows == usual.rows
    assert type(elsewhere.reward_fn) is type(usual.reward_fn)
    assert elsewhere.max_new_tokens == 5  # as the run decodes
    assert Source.of(source) is source


def test_episodes_can_be_evaluated_in_place_of_an_environment() -> None:
    batch = open_batch("rlhf/Sentiment-v0", 1, split="test")
    ours, theirs = (evaluate("tiny", env, 4) for env in (batch, "rlhf/Sentiment-v0"))
    assert ours.reward.tolist() == theirs.reward.tolist()
