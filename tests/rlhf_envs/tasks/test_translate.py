from __future__ import annotations

import builtins
import pickle
import random
import re
from typing import Any

import gymnasium as gym
import pytest
import torch

from rlhf_envs.datasets import load_rows
from rlhf_envs.datasets.corpora import load_corpus
from rlhf_envs.models import load_causal_lm, load_tokenizer
from rlhf_envs.rewards import chrf
from rlhf_envs.rewards.chrf import ChrF, bleu, fold
from rlhf_envs.tasks.back_translation import BackTranslator
from rlhf_envs.tasks.translate import Translate, write_prompt
from rlhf_envs.testing import check_task

sacrebleu = pytest.importorskip("sacrebleu", reason="needs the extra translate")

ROWS = [{"prompt": f"Open file {i}", "reference": f"打开文件{i}"} for i in range(3)]


def test_answers_that_know_nothing_score_less_than_translations() -> None:
    report = check_task("rlhf/Translate-v0", n=256)
    assert report.references == pytest.approx(1)
    others = {kind: score for kind, score in report.scores.items() if kind != "near miss"}
    assert max(others.values()) < 0.25, report


def test_the_reward_is_sacrebleus_chrf_whatever_the_case_and_width() -> None:
    given, wanted = ["打开文件", "Save the file", "", "ＯＰＥＮ，"], ["打开文件夹", "Save all files", "a", "open,"]
    found = ChrF()(["p"] * 4, given, reference=wanted)
    metric = sacrebleu.metrics.CHRF()
    assert found[:2] == pytest.approx(
        [
            metric.sentence_score("打开文件", ["打开文件夹"]).score / 100,
            metric.sentence_score("save the file", ["save all files"]).score / 100,
        ]
    )
    assert found[2:] == pytest.approx([0, 1])


def test_bleu_is_sacrebleus_over_all_texts_and_counts_chinese_characters_as_words() -> None:
    rows = Translate().rows("test", None)[:200]
    rng = random.Random(0)
    wanted = [row["reference"] for row in rows]
    given = ["".join(c for c in text if rng.random() < 0.9).upper() for text in wanted]
    metric = sacrebleu.metrics.BLEU(tokenize="zh")
    expected = metric.corpus_score([fold(text) for text in given], [[fold(text) for text in wanted]]).score
    assert bleu(given, wanted) == pytest.approx(expected)
    assert 20 < expected < 95
    few = ["打开新的文件夹", "x"], [["打开新的文件", "y"]]
    assert bleu(few[0], few[1][0]) == pytest.approx(metric.corpus_score(*few).score)
    assert bleu(["x"], ["打开"]) == bleu([""], ["打开"]) == bleu([], []) == 0


def test_the_reward_needs_references() -> None:
    with pytest.raises(ValueError, match=r"'chrf' compares with the column 'reference', which the data lacks"):
        ChrF()(["p"], ["c"])


def test_without_sacrebleu_the_error_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sacrebleu"):
            raise ModuleNotFoundError("No module named 'sacrebleu'")
        return whole(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for load in (chrf.load_chrf, chrf.load_bleu):
        load.cache_clear()
        with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'rlhf-envs[translate]'")):
            load()
    with pytest.raises(ModuleNotFoundError, match="the reward 'chrf' needs the package sacrebleu"):
        ChrF()


def test_tiny_can_write_every_reference() -> None:
    env: Any = gym.make("rlhf/Translate-v0", split="test").unwrapped
    for row in env.rows:
        ids = env.tokenizer(row["reference"])["input_ids"]
        assert fold(env.tokenizer.decode(ids)) == fold(row["reference"])
        assert len(ids) < env.max_new_tokens
        assert len(env.tokenizer(row["prompt"])["input_ids"]) <= env.max_prompt_tokens


def test_metrics_by_hand() -> None:
    columns = {"reference": [" 打开文件"] * 3}
    found = Translate().metrics(["p"] * 3, [" 打开文件", "打开", ""], columns)
    assert found == {"exact": [1.0, 0.0, 0.0], "length_ratio": [1.0, 0.5, 0.0]}
    assert Translate().corpus_metrics(["p"], [" 打开文件"], {"reference": ["打开文件"]}) == {"bleu": pytest.approx(100)}


def test_what_comes_back_is_what_the_model_writes_for_each_translation_alone() -> None:
    model: Any = load_causal_lm("tiny")
    tokenizer = load_tokenizer("tiny")
    texts, translations = ["Open file", "保存", "the film was good", "Close"], [" 打开", " save all", "the film", "关"]
    languages = [("English", "Chinese"), ("Chinese", "English")] * 2
    expected = []
    for text, given, (source, target) in zip(texts, translations, languages, strict=True):
        ids = tokenizer(f"{target}: {given.strip()}\n{source}:", return_tensors="pt")["input_ids"]
        found = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8)
        back = str(tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True))
        expected.append(ChrF()(["p"], [back], reference=[text])[0])
    translator = BackTranslator("tiny", write_prompt, 8)
    assert translator.share_that_returns(texts, translations, languages) == pytest.approx(expected)
    assert max(expected) > 0
    translator.model = None  # nothing is translated twice
    assert translator.share_that_returns(texts, translations, languages) == pytest.approx(expected)
    copies = ["OPEN file ", "", "the film was good", "关"]
    assert translator.share_that_returns(texts, copies, languages) == pytest.approx([0, 0, 0, expected[3]])


def test_back_translation_is_measured_of_completions_and_references_and_is_no_part_of_the_reward() -> None:
    env: Any = gym.make("rlhf/Translate-v0", split="test", back_translator="tiny").unwrapped
    assert env.task.metric_names(env.rows) == [
        "exact", "length_ratio", "bleu", "back_translation", "back_translated_reference"
    ]  # fmt: skip
    assert isinstance(env.reward_fn, ChrF)
    columns = {name: [row[name] for row in env.rows[:2]] for name in env.rows[0]}
    prompts = columns.pop("prompt")
    found = env.task.corpus_metrics(prompts, columns["reference"], columns)
    assert found["back_translation"] == found["back_translated_reference"]
    assert env.task.corpus_metrics(prompts, columns["text"], columns)["back_translation"] == 0
    assert pickle.loads(pickle.dumps(env.task)).back_translator == "tiny"
    for nowhere in ("nowhere/back/translator", 3):
        with pytest.raises(ValueError, match=f"back_translator={nowhere!r} is none: "):
            gym.make("rlhf/Translate-v0", back_translator=nowhere)
    with pytest.raises(ValueError, match="'tiny' has 256 positions, and it needs more than the 256 tokens"):
        BackTranslator("tiny", write_prompt, 256)


def test_rows_of_ones_own_get_the_template_once_and_may_name_their_languages() -> None:
    task = Translate()
    rows = task.rows("train", [*ROWS, {**ROWS[0], "source": "French", "target": "German"}])
    assert rows[0]["prompt"] == "English: Open file 0\nChinese:"
    assert rows[0]["reference"] == " 打开文件0"
    assert rows[3]["prompt"] == "French: Open file 0\nGerman:"
    assert task.rows("train", rows) == rows


def test_rows_without_a_translation_are_named() -> None:
    message = r"row 1 has no column 'reference', the translation to compare with: it has 'prompt', 'zh'; rename one"
    with pytest.raises(ValueError, match=message):
        Translate().rows("train", [ROWS[0], {"prompt": "Open", "zh": "打开"}])
    with pytest.raises(ValueError, match="row 0 has the reference '', which is no text"):
        Translate().rows("train", [{"prompt": "Open", "reference": ""}])


def test_no_message_of_the_sample_is_in_two_splits_in_either_language() -> None:
    seen: dict[str, str] = {}
    sizes = {}
    for split in ("train", "validation", "test"):
        rows = Translate().rows(split, None)
        sizes[split] = len(rows)
        for row in rows:
            key = re.sub(r"[\W_]", "", row["text"].lower())
            assert seen.setdefault(key, split) == split
            other = re.sub(r"[\W_]", "", row["reference"].lower())
            assert seen.setdefault(other, split) == split
    assert sizes == {"train": 1218, "validation": 534, "test": 942}


def test_a_start_and_its_agents_learn_from_different_messages() -> None:
    task = Translate()
    shown = task.demonstrations("train")
    assert len(shown) + len(task.rows("train", None)) == len(load_rows("interface_texts", "train"))
    texts = {row["prompt"].partition(": ")[2].partition("\n")[0] for row in shown}
    for row in task.rows("train", None):
        assert row["text"] not in texts
        assert row["reference"].strip() not in texts
    assert len(task.demonstrations("validation")) == len(task.rows("validation", None))


def test_the_corpus_for_pre_training_holds_each_message_in_both_languages_in_its_split() -> None:
    documents = load_corpus("interface-texts")
    assert {document.split for document in documents} == {"train", "validation", "test"}
    for split in ("validation", "test"):
        texts = [document.text for document in documents if document.split == split]
        assert texts == [row["text"] for row in Translate().rows(split, None)]
