"""TRL's trainers train on our tasks, with the rewards that the environments give."""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import rlhf_envs  # noqa: F401
from rlhf_envs.interop import trl as tasks
from rlhf_envs.models import load_tokenizer
from rlhf_envs.rewards import FunctionReward, RewardError

pytest.importorskip("datasets")
TEXTS = [{"prompt": f"Name a colour, please: number {i}", "weight": i} for i in range(12)]
TALKS = [{"prompt": [{"role": "user", "content": f"name a colour {i}"}], "answer": "red"} for i in range(12)]
CHAT: dict[str, Any] = {
    "chat_template": "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' ' }}{% endfor %}"
}
QUIET = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "bf16": False}
SMALL = {"max_steps": 1, "per_device_train_batch_size": 4, "gradient_checkpointing": False, "logging_steps": 1}


def by_weight(prompts: Any, completions: Any, weight: list[int], whole_prompts: list[str], **columns: Any) -> list[Any]:
    """Read the text, the whole prompt and a column, and not apply to some episodes."""
    return [
        None if number % 5 == 4 else len(text) + number + whole.count("N") / 2
        for text, number, whole in zip(completions, weight, whole_prompts, strict=True)
    ]


def by_tokens(completions: Any, completion_ids: Any, finish_reasons: Any, log_metric: Any, **columns: Any) -> list[Any]:
    log_metric("spoken", len(completions))
    return [len(ids) + (reason == "eos") / 2 for ids, reason in zip(completion_ids, finish_reasons, strict=True)]


def in_the_environment(env_id: str, texts: list[str], **kwargs: Any) -> list[tuple[dict[str, Any], float]]:
    """Return the last info and the reward of an episode for each text, with the prompt of the row of its number."""
    env = gym.make(env_id, disable_env_checker=True, **kwargs)
    episodes: Any = env.unwrapped.episodes  # type: ignore[attr-defined]
    found = []
    for index, text in enumerate(texts):
        env.reset(seed=0, options={"index": index})
        ids = episodes.tokenizer(text, add_special_tokens=False)["input_ids"]
        total = 0.0
        for token in [*ids, episodes.ends[0]]:
            _, reward, terminated, _, info = env.step(token)
            total += float(reward)
            if terminated:
                break
        found.append((info, total))
    return found


def rewards_in_trl(env_id: str, infos: list[dict[str, Any]], **kwargs: Any) -> list[float | None]:
    """Return what TRL's trainer would be given for the same texts and tokens."""
    rows = tasks.dataset(env_id, **kwargs).select(range(len(infos)))
    assert rows["prompt"][:] == [info["prompt"] for info in infos]
    given = {name: rows[name][:] for name in rows.column_names if name != "prompt"}
    said = [info["completion"] for info in infos], [info["completion_ids"] for info in infos]
    return tasks.reward(env_id, **kwargs)(rows["prompt"][:], *said, **given)


@pytest.mark.parametrize(
    ("env_id", "texts", "kwargs"),
    [
        ("rlhf/IncreasingNumbers-v0", ["1 2 3", "3 2 1"], {}),
        ("rlhf/SpamFilter-v0", [" spam", " ham", " both of them"], {"split": "test"}),
        ("rlhf/Prompts-v0", ["red", "a blue sky", ""], {"data": TEXTS, "reward_fn": by_tokens, "max_prompt_tokens": 6}),
        ("rlhf/Prompts-v0", ["red", "a blue sky"], {"data": TALKS, "reward_fn": by_tokens, **CHAT}),
    ],
)
def test_rewards_equal_the_environments_for_the_same_texts(env_id: str, texts: list[str], kwargs: Any) -> None:
    found = in_the_environment(env_id, texts, **kwargs)
    assert rewards_in_trl(env_id, [info for info, _ in found], **kwargs) == [total for _, total in found]


def test_a_reward_that_does_not_apply_is_none_and_gets_the_whole_prompt() -> None:
    kwargs: dict[str, Any] = {"data": TEXTS, "reward_fn": by_weight, "max_prompt_tokens": 4, "test_share": 0}
    rows = tasks.dataset("rlhf/Prompts-v0", **kwargs)
    assert all(len(row["prompt"]) < len(row["whole_prompts"]) for row in rows)
    given = {name: rows[name][:] for name in rows.column_names}
    scores = tasks.reward("rlhf/Prompts-v0", **kwargs)(given.pop("prompt"), ["four"] * len(rows), **given)
    assert scores == [None if row["weight"] % 5 == 4 else 4.5 + row["weight"] for row in rows]


def test_what_a_reward_logs_the_components_and_the_metrics_reach_trls_log() -> None:
    logged: dict[str, float] = {}
    kwargs: dict[str, Any] = {"split": "test"}
    rows = tasks.dataset("rlhf/SpamFilter-v0", **kwargs).select(range(4))
    given = {name: rows[name][:] for name in rows.column_names if name != "prompt"}
    score = tasks.reward("rlhf/SpamFilter-v0", **kwargs)
    scores = score(rows["prompt"][:], [" ham"] * 4, log_metric=logged.__setitem__, **given)
    assert logged["rlhf/accuracy"] == np.mean([label == "ham" for label in given["label"]])
    assert all(isinstance(value, float) for value in scores)
    logged.clear()
    two = 2 * FunctionReward(by_tokens, "tokens") + FunctionReward(lambda completions, **columns: [1.0], "one")
    ids = load_tokenizer("tiny")("a b", add_special_tokens=False)["input_ids"]
    scored = tasks.reward("rlhf/Prompts-v0", data=TEXTS, reward_fn=two)
    assert scored(["p"], ["a b"], completion_ids=[ids], log_metric=logged.__setitem__, weight=[1]) == [2 * len(ids) + 1]
    assert logged == {"rlhf/reward_tokens": len(ids), "rlhf/reward_one": 1, "spoken": 1}


def test_columns_that_trl_takes_for_its_own_and_uneven_ones_reach_the_reward() -> None:
    data = [{"prompt": f"p {i}", "messages": "m", "tags": {"a": i} if i % 2 else {"b": [i, "x"]}} for i in range(12)]
    seen: dict[str, Any] = {}

    def score(completions: Any, messages: Any, tags: Any, **columns: Any) -> list[float]:
        seen.update(messages=messages, tags=tags)
        return [0.0] * len(completions)

    kwargs: dict[str, Any] = {"data": data, "reward_fn": score, "validation_share": 0, "test_share": 0}
    rows = tasks.dataset("rlhf/Prompts-v0", **kwargs)
    assert "messages" not in rows.column_names
    given = {name: rows[name][:] for name in rows.column_names}
    tasks.reward("rlhf/Prompts-v0", **kwargs)(given.pop("prompt"), ["x"] * len(rows), **given)
    assert seen == {"messages": ["m"] * len(data), "tags": [row["tags"] for row in data]}


def test_tokens_of_another_tokenizer_are_left_out_aloud(caplog: pytest.LogCaptureFixture) -> None:
    plain = tasks.reward("rlhf/Prompts-v0", data=TEXTS, reward_fn=lambda completions, **columns: [1.0])
    with caplog.at_level(logging.WARNING):
        assert plain(["p"], ["a b"], completion_ids=[[1_000_000]], weight=[1]) == [1.0]
    assert "are not of the environment's tokenizer" in caplog.text and "model=" in caplog.text
    needs = tasks.reward("rlhf/Prompts-v0", data=TEXTS, reward_fn=by_tokens, reward_retries=0)
    with pytest.raises(RewardError, match="declares completion_ids"):
        needs(["p"], ["a b"], completion_ids=[[1_000_000]], weight=[1])


def test_padding_after_the_end_is_not_part_of_it_and_a_cut_character_is_left_out() -> None:
    scored = tasks.reward("rlhf/Prompts-v0", data=TEXTS, reward_fn=weighted)
    tokens = load_tokenizer("tiny")
    word = tokens("中", add_special_tokens=False)["input_ids"][0]  # a part of a character
    ids = [[word, tokens.eos_token_id, tokens.pad_token_id], [*tokens(" it")["input_ids"], word]]
    texts = tokens.batch_decode(ids, skip_special_tokens=True)
    assert texts[1].endswith("\ufffd")
    assert scored(["p"] * 2, texts, completion_ids=ids, weight=[0, 0]) == [1.5, 3]


def test_what_trl_cannot_do_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"rlhf/DialogBandit-v0 has replies.*rlhf train --env rlhf/DialogBandit-v0"):
        tasks.dataset("rlhf/DialogBandit-v0")
    with pytest.raises(ValueError, match="rlhf/DialogBandit-v0 has replies"):
        tasks.reward("rlhf/DialogBandit-v0")
    with pytest.raises(ValueError, match="needs the column 'weight'"):
        tasks.reward("rlhf/Prompts-v0", data=TEXTS, reward_fn=by_weight)(["p"], ["c"])
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'rlhf-envs\[train\]'"):
        tasks.dataset("rlhf/TokenBandit-v0")


def test_what_does_not_take_place_in_trl_is_said(caplog: pytest.LogCaptureFixture) -> None:
    data = [{"prompt": f"p {i}"} for i in range(12)]
    each = [
        {"id": "rlhf/Prompts-v0", "name": n, "data": data, "max_new_tokens": k, "reward": "repetition"}
        for n, k in (("a", 4), ("b", 6))
    ]
    with caplog.at_level(logging.WARNING):
        rows = tasks.dataset("rlhf/Mixture-v0", tasks=each, min_new_tokens=2)
    assert {*rows["task"]} == {"a", "b"}
    assert all(words in caplog.text for words in ("weights of its tasks", "action masks", "lengths of its tasks"))


def small_model(folder: Path) -> str:
    torch.manual_seed(0)
    tokens = load_tokenizer("tiny")
    sizes: dict[str, Any] = dict(n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=1)
    config = GPT2Config(vocab_size=len(tokens), pad_token_id=tokens.pad_token_id, **sizes)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


def weighted(completions: Any, weight: list[int], finish_reasons: Any, **columns: Any) -> list[float]:
    each = zip(completions, weight, finish_reasons, strict=True)
    return [len(text) + number + (reason == "eos") / 2 for text, number, reason in each]


class Recorded:
    """Keep what TRL hands over and gets back."""

    def __init__(self, score: tasks.TaskReward) -> None:
        self.score, self.calls, self.__name__ = score, [], score.__name__

    def __call__(self, **given: Any) -> list[float | None]:
        self.calls.append((given, self.score(**given)))
        return self.calls[-1][1]


def check_against_the_environment(env_id: str, recorded: Recorded, **kwargs: Any) -> None:
    """Assert that the environment gives TRL's texts the rewards that TRL was given."""
    env = gym.make(env_id, disable_env_checker=True, **kwargs)
    episodes: Any = env.unwrapped.episodes  # type: ignore[attr-defined]
    at = {episodes.read_prompt(i): i for i in range(len(episodes.rows))}
    for given, scores in recorded.calls:
        for prompt, ids, score in zip(given["prompts"], given["completion_ids"], scores, strict=True):
            env.reset(options={"index": at[prompt]})
            for token in ids:
                _, reward, terminated, _, _ = env.step(int(token))
                if terminated:  # TRL may pad what follows
                    break
            assert terminated
            assert math.isclose(float(reward), score, abs_tol=1e-6)


def test_a_grpo_step_learns_from_the_environments_rewards(trl: Any, tmp_path: Path) -> None:
    from transformers import PrinterCallback

    env_id, kwargs = "rlhf/Sentiment-v0", {"max_new_tokens": 4, "data": TEXTS}
    recorded = Recorded(tasks.reward(env_id, **kwargs))
    args = trl.GRPOConfig(
        output_dir=str(tmp_path),
        num_generations=4,
        learning_rate=1e-2,
        **tasks.settings(env_id, **kwargs),
        **SMALL,
        **QUIET,
    )
    trainer = trl.GRPOTrainer(
        model=small_model(tmp_path / "model"),
        reward_funcs=recorded,
        args=args,
        train_dataset=tasks.dataset(env_id, **kwargs),
        processing_class=tasks.tokenizer(env_id, **kwargs),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    check_against_the_environment(env_id, recorded, **kwargs)
    logged = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    np.testing.assert_allclose(logged, [np.mean(recorded.calls[0][1])], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rloo", "online_dpo"])
def test_rloo_and_online_dpo_take_the_same(trl: Any, tmp_path: Path, kind: str) -> None:
    from transformers import PrinterCallback

    env_id, kwargs = "rlhf/Prompts-v0", {"max_new_tokens": 4, "data": TEXTS, "reward_fn": weighted}
    recorded = Recorded(tasks.reward(env_id, **kwargs))
    length = tasks.settings(env_id, **kwargs)
    shared = {"output_dir": str(tmp_path), **SMALL, **QUIET}
    given: dict[str, Any] = dict(
        model=small_model(tmp_path / "model"), reward_funcs=recorded, train_dataset=tasks.dataset(env_id, **kwargs)
    )
    given["processing_class"] = tasks.tokenizer(env_id, **kwargs)
    if kind == "rloo":
        trainer = trl.RLOOTrainer(args=trl.RLOOConfig(num_generations=4, **length, **shared), **given)
    else:
        from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

        args = OnlineDPOConfig(max_new_tokens=length["max_completion_length"], max_length=64, **shared)
        trainer = OnlineDPOTrainer(args=args, **given)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    assert recorded.calls
    check_against_the_environment(env_id, recorded, **kwargs)
