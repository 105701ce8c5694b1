"""The task of Chinese reviews: its data, both of its modes, and texts in wrong encodings."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlhf_envs.datasets import load_corpus, load_rows
from rlhf_envs.rewards.chinese import ChineseReward
from rlhf_envs.rewards.registry import reward_target
from rlhf_envs.tasks.chinese_review import ChineseReview
from rlhf_envs.testing import check_task, check_text_env
from scripts.datasets.chinese_reviews import key_of

SPLITS = ("train", "validation", "test")
ROWS = [{"prompt": f"第{i}家酒店很好", "label": "好评" if i % 3 else "差评"} for i in range(40)]


def write_table(path: Path, encoding: str) -> str:
    lines = ["prompt,label", *(f"{row['prompt']},{row['label']}" for row in ROWS)]
    path.write_bytes("\n".join(lines).encode(encoding))
    return str(path)


def test_no_review_is_in_two_splits_and_none_is_nearly_another() -> None:
    having: dict[str, list[int]] = {}
    keys = [key_of(row["prompt"]) for row in load_rows("chinese_reviews")]
    parts = [{key[i : i + 5] for i in range(max(len(key) - 4, 1))} for key in keys]
    assert len({*keys}) == len(keys) == 7612
    for i, own in enumerate(parts):
        for j, n in Counter(j for part in own for j in having.get(part, ())).items():
            assert n < 0.5 * min(len(own), len(parts[j])), (keys[i], keys[j])
        for part in own:
            having.setdefault(part, []).append(i)


def test_held_out_openings_begin_no_training_prompt() -> None:
    openings = {
        split: {key_of(row["prompt"]) for row in ChineseReview("continue").rows(split, None)} for split in SPLITS
    }
    assert not openings["train"] & (openings["validation"] | openings["test"])
    assert not openings["validation"] & openings["test"]
    assert {len(row["prompt"]) for row in ChineseReview("continue").rows("test", None)} <= {*range(4, 9)}


def test_an_opening_and_its_reference_are_the_review() -> None:
    texts = {row["prompt"] for row in load_rows("chinese_reviews", "test")}
    rows = ChineseReview("continue").rows("test", None)
    assert all(row["prompt"] + row["reference"] in texts for row in rows)
    assert "opening" not in rows[0] and "opening" not in ChineseReview().rows("test", None)[0]
    assert ChineseReview("continue").demonstrations("test")[0] == {
        "prompt": rows[0]["prompt"],
        "completion": rows[0]["reference"],
    }


def test_the_corpus_for_pre_training_has_the_held_out_reviews_held_out() -> None:
    documents = load_corpus("chinese-reviews")
    for split in ("validation", "test"):
        assert [d.text for d in documents if d.split == split] == [r["text"] for r in ChineseReview().rows(split, None)]
    assert sum(d.split == "train" for d in documents) == 3982 + 1730
    with pytest.raises(ValueError, match="no row has split 'judge'"):
        load_rows("chinese_reviews", "judge")


@pytest.mark.parametrize("mode", ["classify", "continue"])
def test_the_environment_is_one_in_both_modes(mode: str) -> None:
    check_text_env(gym.make("rlhf/ChineseReview-v0", mode=mode).unwrapped)


def test_answers_that_know_nothing_score_0() -> None:
    report = check_task("rlhf/ChineseReview-v0", n=200)
    assert report.references == pytest.approx(1, abs=0.02)
    assert max(report.scores.values()) < 0.2


def test_continuations_are_scored_by_the_reward_and_judged_by_another() -> None:
    env: Any = gym.make("rlhf/ChineseReview-v0", mode="continue").unwrapped
    task = ChineseReview("continue")
    (judge,) = task.judges
    assert isinstance(env.reward_fn, ChineseReward)
    assert judge != task.default_reward and reward_target(judge) is not reward_target(task.default_reward)
    good, bad = env.reward_fn(["酒店的房间"] * 2, ["很干净，服务也很好。", "很脏，服务也很差。"])
    assert good > 1 > 0 > bad
    assert ChineseReview().judges == ()


def test_a_whole_continuation_of_tiny_is_bytes_and_its_end_is_seen() -> None:
    env: Any = gym.make("rlhf/ChineseReview-v0", mode="continue").unwrapped
    tokenizer = env.tokenizer
    ids = tokenizer("很好")["input_ids"]
    assert len(ids) == 6, "three bytes a character"
    texts = []
    for given in ([*ids, tokenizer.eos_token_id], [*ids[:4], tokenizer.eos_token_id], (ids * 7)[:40]):
        env.reset(seed=0)
        for token in given:
            _, _, terminated, _, info = env.step(token)
        assert terminated
        texts.append((info["completion"], info["finish_reason"], info["metrics"]["whole"]))
    assert texts[0] == ("很好", "eos", 1)
    assert texts[1] == ("很\ufffd", "eos", 0)
    assert texts[2] == ("很好" * 6 + "很", "length", 1), (
        "40 tokens are 13 characters, and a part of one that is left out"
    )


def test_metrics_of_continuations_by_hand() -> None:
    completions = ["很好，OK", "很好很好", "", "\ufffd好", "。"]
    found = ChineseReview("continue").metrics([""] * 5, completions, {})
    assert found["chinese"] == pytest.approx([0.5, 1, 0, 0.5, 0])
    assert found["whole"] == [1, 1, 1, 0, 1]
    np.testing.assert_allclose(found["distinct"], [1, 2 / 3, np.nan, 1, np.nan])


def test_a_long_review_loses_its_beginning_and_keeps_the_question() -> None:
    rows = [{**row, "prompt": row["prompt"] + "房间" * 60} for row in ROWS]
    env: Any = gym.make("rlhf/ChineseReview-v0", data=rows, split="train").unwrapped
    observation, _ = env.reset(seed=0)
    length = int(observation["attention_mask"].sum())
    text = env.tokenizer.decode(observation["input_ids"][:length])
    assert 180 < length <= 184
    assert "第" not in text and text.endswith("房间\n评价:")


@pytest.mark.parametrize("mode", ["classify", "continue"])
def test_a_file_of_ones_own_is_read_in_utf_8_and_gb18030_is_named(mode: str, tmp_path: Path) -> None:
    good = gym.make("rlhf/ChineseReview-v0", mode=mode, data=write_table(tmp_path / "good.csv", "utf-8")).unwrapped
    assert good.rows[0]["prompt"].startswith("第")  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"wrong.csv:2: byte 0xb5 is not UTF-8: save the file as UTF-8"):
        gym.make("rlhf/ChineseReview-v0", mode=mode, data=write_table(tmp_path / "wrong.csv", "gb18030"))


@pytest.mark.parametrize("mode", ["classify", "continue"])
def test_texts_that_were_decoded_wrongly_are_named(mode: str) -> None:
    lost = [*ROWS, {"prompt": "酒店\ufffd\ufffd很好", "label": "好评"}]
    with pytest.raises(ValueError, match="the prompt of row 40 has a lost character, U\\+FFFD: '酒店"):
        ChineseReview(mode).rows("train", lost)
    garbled = [{**row, "prompt": row["prompt"].encode().decode("latin-1")} for row in ROWS]
    with pytest.raises(ValueError, match=r"none of the 40 prompts has a Chinese character, .* often GB18030"):
        ChineseReview(mode).rows("train", garbled)


def test_an_unknown_mode_and_an_unknown_label_are_named() -> None:
    with pytest.raises(ValueError, match="mode='write': there are 'classify' and 'continue'"):
        gym.make("rlhf/ChineseReview-v0", mode="write")
    with pytest.raises(ValueError, match="row 0 has the label '中评', which is not among '好评', '差评'"):
        ChineseReview().rows("train", [{"prompt": "酒店一般", "label": "中评"}])
