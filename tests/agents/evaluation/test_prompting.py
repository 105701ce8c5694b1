"""Prompts of one's own: what completes them, how it decodes, and what scores them."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from agents import evaluate, generate, make, save
from agents.cli.evaluate import EvaluateConfig
from agents.cli.generate import GenerateConfig
from agents.core.episodes import open_batch
from agents.evaluation.source import Source
from rlhf_envs.models import load_causal_lm, load_tokenizer

BANDIT, SENTIMENT = "rlhf/TokenBandit-v0", "rlhf/Sentiment-v0"


def length(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    return [float(len(completion)) for completion in completions]


@pytest.fixture(scope="module")
def agent() -> Any:
    torch.manual_seed(0)
    return make("ppo", BANDIT, n_envs=8, seed=0, batch_size=24)


def test_a_model_goes_on_with_the_text_as_its_own_greedy_decoding_does() -> None:
    model, tokenizer = load_causal_lm("tiny"), load_tokenizer("tiny")
    prompts = ["the film was", "i would have liked it better if it"]
    done = generate("tiny", prompts=prompts, max_new_tokens=8, deterministic=True)
    for prompt, completion in zip(prompts, done, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        expected = model.generate(ids, max_new_tokens=8, do_sample=False)[0]
        assert completion.input_ids.tolist() == expected.tolist()
        assert (completion.prompt, completion.components) == (prompt, {})


def test_a_system_text_begins_the_conversation_of_a_row() -> None:
    row = {"prompt": "name a colour", "system": "be brief."}
    (done,) = generate("tiny", prompts=[row], max_new_tokens=1, env_kwargs={"chat_template": "roles"})
    assert done.prompt == "System: be brief.\n\nUser: name a colour"
    read = load_tokenizer("tiny").decode(done.input_ids[:-1])
    assert read == "system: be brief.\n\nuser: name a colour\n\nassistant:"


def test_several_completions_of_a_prompt_come_one_after_the_other_and_differ() -> None:
    done = generate("tiny", prompts=["the film", "a story"], n=3, max_new_tokens=8)
    assert [c.prompt for c in done] == ["the film"] * 3 + ["a story"] * 3
    assert len({c.completion for c in done}) == 6


def test_a_conversation_is_a_prompt_and_one_text_is_one_prompt() -> None:
    messages = [{"role": "user", "content": "hello"}]
    (said,) = generate("tiny", prompts=[messages], max_new_tokens=4, env_kwargs={"chat_template": "roles"})
    assert (said.prompt, said.messages) == ("hello", messages)
    assert said.answered == [{"role": "assistant", "content": said.completion}]
    with pytest.raises(ValueError, match="a prompt of messages needs a chat template"):
        generate("tiny", prompts=[messages], max_new_tokens=4)
    assert [c.prompt for c in generate("tiny", prompts="the film", max_new_tokens=4)] == ["the film"]


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_an_agent_and_its_bundle_write_the_same_with_their_own_policy(algorithm: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    agent = make(algorithm, BANDIT, n_envs=4, seed=0)
    save(agent, tmp_path / "agent")
    there, here = (generate(source, prompts=["a", "c"], n=2) for source in (tmp_path / "agent", agent))
    assert [c.completion for c in there] == [c.completion for c in here]
    batch = open_batch(BANDIT, 1)
    batch.start(0, 2)  # the prompt c
    best, _ = agent.predict(batch.observe(), deterministic=True)
    assert generate(agent, prompts=["c"], deterministic=True)[0].input_ids[1] == best[0]


def test_best_of_n_keeps_the_completion_that_its_environment_scores_highest() -> None:
    agent = make("best_of_n", SENTIMENT, n_envs=2, seed=0, best_of=4)
    drawn = generate(agent.policy, SENTIMENT, prompts=["the film was"], n=4, max_new_tokens=8)
    (kept,) = generate(agent, prompts=["the film was"], max_new_tokens=8)
    assert kept.reward == max(c.reward for c in drawn) > min(c.reward for c in drawn)


def test_prompts_are_scored_where_an_environment_or_a_reward_is_named(agent: Any) -> None:
    (scored,) = generate(agent, BANDIT, prompts=["b"])
    assert scored.components == {"token-bandit": scored.reward}
    for source in ("tiny", agent):
        (scored,) = generate(source, prompts=["b"], env_kwargs={"reward_fn": length}, max_new_tokens=2)
        assert scored.reward == len(scored.completion) > 0
    (scored,) = generate(agent, prompts=["b"], env_kwargs={"reward": "token-bandit"})
    assert scored.components == {"token-bandit": scored.reward}


def test_rows_have_the_columns_that_the_reward_reads() -> None:
    def topical(prompts: list[str], completions: list[str], topic: list[str], **_: Any) -> list[float]:
        return [float(len(text)) for text in topic]

    rows = [{"prompt": "the film", "topic": "four"}, {"prompt": "a story", "topic": "seven", "split": "train"}]
    done = generate("tiny", prompts=rows, env_kwargs={"reward_fn": topical}, max_new_tokens=2)
    assert [(c.prompt, c.reward) for c in done] == [("the film", 4.0), ("a story", 5.0)]
    assert [c.prompt for c in generate("tiny", prompts=rows, max_new_tokens=2)] == ["the film", "a story"]


def test_a_runs_data_and_reward_need_not_be_there(tmp_path: Path) -> None:
    load_causal_lm("tiny").save_pretrained(tmp_path / "model")
    load_tokenizer("tiny").save_pretrained(tmp_path / "model")
    run = {"algo": "ppo", "env": "rlhf/Prompts-v0", "hyperparams": {"temperature": 0.7}}
    run["env_kwargs"] = {"data": "gone.jsonl", "reward": "gone:score", "max_new_tokens": 6}
    (tmp_path / "config.json").write_text(json.dumps(run))
    (done,) = generate(tmp_path, prompts=["the film was"])
    (same,) = generate("tiny", prompts=["the film was"], temperature=0.7, max_new_tokens=6)
    assert done.completion == same.completion
    with pytest.raises(ValueError, match=r"gone:score.*give it again"):
        generate(tmp_path, "rlhf/Prompts-v0", prompts=["the film was"])


def test_another_temperature_is_for_one_call_and_counts_in_the_log_probabilities(agent: Any) -> None:
    own = generate(agent, prompts=["a"])
    cold = generate(agent, prompts=["a"], temperature=0.5)[0]
    logits = agent.policy.language_model.model(torch.as_tensor(cold.input_ids)[None]).logits[0, cold.columns]
    expected = (2 * logits).log_softmax(-1)[range(len(cold.columns)), cold.input_ids[cold.columns + 1]]
    torch.testing.assert_close(torch.as_tensor(cold.log_probs), expected.detach(), atol=1e-5, rtol=0)
    assert agent.policy.temperature == 1.0
    assert generate(agent, prompts=["a"])[0].completion == own[0].completion


def test_evaluate_takes_the_same_decoding_for_an_agent_as_for_its_model(agent: Any) -> None:
    greedy = evaluate(agent, BANDIT, 8, top_k=1)
    assert [c.completion for c in greedy.completions] == [
        c.completion for c in evaluate(agent, BANDIT, 8, deterministic=True).completions
    ]
    assert agent.policy.top_k is None
    assert evaluate(agent, BANDIT, 8, max_new_tokens=2).length.max() <= 2


def test_a_prompt_longer_than_the_policy_was_made_for_is_read_whole(agent: Any) -> None:
    model = make("ppo", SENTIMENT, n_envs=2, seed=0)
    prompt = " ".join(["the film was good and"] * 12)
    (done,) = generate(model, prompts=[prompt], max_new_tokens=4, deterministic=True)
    ids = torch.as_tensor(done.input_ids)[None]
    assert len(done.input_ids) - 4 == len(load_tokenizer("tiny")(prompt)["input_ids"]) > model.policy.max_length
    best = model.policy.language_model.model(ids).logits[0, done.columns].argmax(-1)
    assert best.tolist() == done.input_ids[done.columns + 1].tolist()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"prompts": []}, "prompts is empty"),
        ({"prompts": ["a"], "n": 0}, "n=0: expected at least one"),
        ({"prompts": ["a"], "n_prompts": 2}, "leave out n_prompts"),
        ({"prompts": ["a"], "temperature": 0.0}, "temperature=0.0: expected a number above 0"),
        ({"prompts": ["a"], "max_new_tokens": 4096}, "leaves no room for a prompt"),
        ({"prompts": ["a"], "env": "rlhf/Nothing-v0"}, "unknown environment"),
    ],
)
def test_nonsense_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate("tiny", **kwargs)


@pytest.mark.parametrize("prompts", [["the film"], "the film was"])
def test_prompts_in_the_place_of_the_environment_are_told_where_they_go(prompts: Any) -> None:
    with pytest.raises(TypeError, match=r"give prompts of your own by name, prompts="):
        generate("tiny", prompts)


def test_a_module_that_a_runs_file_names_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    load_causal_lm("tiny").save_pretrained(tmp_path / "model")
    (tmp_path / "config.json").write_text(json.dumps({"algo": "best_of_n", "env": "planted:my/Planted-v0"}))
    for prompts in (["the film"], None):  # to choose the best it has to know the environment
        with pytest.raises(ValueError, match="unknown environment 'my/Planted-v0'"):
            generate(tmp_path, prompts=prompts)
    assert not (tmp_path / "marker").exists()


def test_a_policy_that_keeps_the_best_needs_a_reward() -> None:
    source = Source("some policy", model="tiny", best_of=4)
    with pytest.raises(ValueError, match=r"keeps the best of 4 completions: pass env="):
        generate(source, prompts=["a"])


def test_generate_evaluate_and_their_commands_share_their_arguments() -> None:
    shared = {"temperature", "top_k", "top_p", "max_new_tokens", "deterministic", "seed", "trust", "env_kwargs"}
    for function in (generate, evaluate):
        assert shared <= set(inspect.signature(function).parameters)
    for config in (GenerateConfig, EvaluateConfig):
        assert shared <= set(config.model_fields)
