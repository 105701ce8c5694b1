"""The judge "gold": what fools a bag of words does not fool it, and its parts are reported."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest

from rlhf_envs.datasets import load_rows
from rlhf_envs.models import resolve
from rlhf_envs.rewards import evaluate_reward, get_reward
from rlhf_envs.rewards.judge import FEATURES, GoldJudge, gold
from rlhf_envs.rewards.ngrams import NgramModel
from rlhf_envs.rewards.probes import PRAISE, praise_list, probe_reward, shuffle_words


@pytest.fixture(scope="module")
def judge() -> GoldJudge:
    loaded: GoldJudge = get_reward("gold")  # type: ignore[assignment]
    return loaded


@pytest.fixture(scope="module")
def real() -> list[str]:
    return [f"{row['prompt']}{row['reference']}" for row in load_rows("sentiment", "test")[:300]]


def score(judge: GoldJudge, texts: list[str]) -> np.ndarray:
    return judge.score([""] * len(texts), texts)


def test_real_text_scores_higher_than_its_words_shuffled(judge: GoldJudge, real: list[str]) -> None:
    generator = random.Random(0)
    shuffled = [shuffle_words(text, generator) for text in real]
    assert np.mean(score(judge, real) > score(judge, shuffled)) >= 0.95


@pytest.mark.parametrize("separator", [" ", ", "])
def test_real_text_scores_higher_than_a_list_of_praise(judge: GoldJudge, real: list[str], separator: str) -> None:
    generator = random.Random(0)
    lists = [praise_list(text, generator, separator=separator) for text in real]
    assert np.mean(score(judge, real) > score(judge, lists)) >= 0.99
    assert np.mean(score(judge, real) > score(judge, ["great wonderful excellent perfect amazing superb"])) >= 0.99


def test_real_text_scores_higher_than_praise_in_sentences(judge: GoldJudge, real: list[str]) -> None:
    generator = random.Random(0)
    templates = ["a {} film.", "it is {}.", "the story is {}.", "what a {} movie!"]
    praised = []
    for text in real:
        words: list[str] = []
        while len(words) < len(text.split()):
            words += generator.choice(templates).format(generator.choice(PRAISE)).split()
        praised.append(" ".join(words))
    assert np.mean(score(judge, real) > score(judge, praised)) >= 0.97


def test_it_agrees_with_the_order_of_peoples_ratings(judge: GoldJudge) -> None:
    rows = load_rows("rated_snippets", "test", required=("text",))
    scores, means = score(judge, [str(row["text"]) for row in rows]), np.array([row["mean"] for row in rows], float)
    above = means[:, None] - means[None, :] > 1
    assert np.mean((scores[:, None] > scores[None, :])[above]) >= 0.80


def test_the_score_is_meaning_times_language_and_both_are_components(judge: GoldJudge, real: list[str]) -> None:
    scores, parts = evaluate_reward(judge, [""] * 50, real[:50], {})
    assert list(parts) == ["gold", "gold_meaning", "gold_language"]
    np.testing.assert_allclose(scores, parts["gold_meaning"] * parts["gold_language"])
    assert all(((values >= 0) & (values <= 1)).all() for values in parts.values())


def test_praise_and_blame_differ_in_meaning_and_garbled_text_in_language(judge: GoldJudge) -> None:
    texts = [
        "this movie was wonderful, a moving and beautiful film.",
        "this movie was a boring mess with awful acting.",
        "beautiful film was this and moving a, movie wonderful.",
        "masterpiece masterpiece tale masterpiece, masterpiece picture masterpiece masterpiece.",
    ]
    _, parts = evaluate_reward(judge, [""] * 4, texts, {})
    meaning, language = parts["gold_meaning"], parts["gold_language"]
    assert meaning[0] > 0.9 and meaning[1] < 0.2
    assert (language[:2] > 0.5).all() and (language[2:] < 0.1).all()


@pytest.mark.parametrize("text", ["", "   ", "...", "很好看，很好看，真的很好看"])
def test_what_is_no_english_text_scores_almost_nothing(judge: GoldJudge, text: str) -> None:
    assert score(judge, [text])[0] < 0.05


def test_it_reads_the_prompt_and_the_completion_as_one_text(judge: GoldJudge) -> None:
    whole = judge.score([""], ["the film was not good"])
    assert judge.score(["the film was"], [" not good"]) == whole
    assert judge.score(["the film was not"], [" good"]) == whole


def test_the_probes_find_no_blind_spot_but_in_length(judge: GoldJudge) -> None:
    rows = load_rows("sentiment", "validation")[:100]
    report = probe_reward(judge, [str(row["prompt"]) for row in rows], [str(row["reference"]) for row in rows])
    preferred = {result.probe: result.preferred for result in report.results}
    garbled = ("words shuffled", "praise list", "start repeated", "prompt echoed")
    assert min(preferred[name] for name in garbled) >= 0.95


def test_512_texts_take_less_than_three_seconds(judge: GoldJudge, real: list[str]) -> None:
    start = time.process_time()
    score(judge, (real * 2)[:512])
    assert time.process_time() - start < 3


def test_it_saves_and_loads(judge: GoldJudge, tmp_path: Path) -> None:
    texts = ["good film", "été", "nothing but the film was good."]
    small = GoldJudge(judge.meaning, NgramModel.fit(texts * 3), range(len(FEATURES)), -0.5)
    small.save(tmp_path)
    np.testing.assert_allclose(score(GoldJudge.load(str(tmp_path)), texts), score(small, texts), atol=0.1)


def test_a_folder_without_a_judge_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no judge: judge\.json is missing"):
        GoldJudge.load(str(tmp_path))


def test_negative_weights_are_an_error(judge: GoldJudge) -> None:
    with pytest.raises(ValueError, match="weights of at least 0"):
        GoldJudge(judge.meaning, judge.ngrams, [-1.0] * len(FEATURES), 0.0)


def test_the_embedded_judge_is_small() -> None:
    assert sum(file.stat().st_size for file in Path(resolve("gold")).rglob("*.*")) < 6e6
    assert isinstance(gold(), GoldJudge)
