"""Aggregation follows who can be trusted; every edge of it has a plain answer or a plain error."""

from __future__ import annotations

import datetime
import itertools
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlhf_envs.feedback.agreement import alpha_by_kind
from rlhf_envs.feedback.records import Item, Judgement
from rlhf_envs.preferences.crowd import (
    TIE,
    PairVote,
    Rating,
    Vote,
    aggregate_pairs,
    agreement,
    bradley_terry,
    dawid_skene,
    find_spammers,
    majority_vote,
    noisy_bradley_terry,
    pair_votes,
)

pytest.importorskip("crowdkit", reason="needs the extra agreement")
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def crowd(accuracies: dict[str, float], n: int = 200, seed: int = 0) -> tuple[list[int], list[Vote]]:
    """Two labels; every annotator votes on every item and is right with their own probability."""
    generator = np.random.default_rng(seed)
    truth = [int(label) for label in generator.integers(2, size=n)]
    votes = [
        Vote(item, name, label if generator.random() < p else 1 - label)
        for item, label in enumerate(truth)
        for name, p in accuracies.items()
    ]
    return truth, votes


def accuracy(probabilities: dict[Any, np.ndarray], truth: list[int]) -> float:
    return float(np.mean([probabilities[item].argmax() == label for item, label in enumerate(truth)]))


def item(number: int, kind: str = "pairwise", completions: Sequence[str] = ("a", "b"), gold: Any = None) -> Item:
    return Item(number, kind, f"prompt {number}", tuple(completions), "", "", {}, 3, gold, 0.0, NOW)


def judge(number: int, annotator: str, value: dict[str, Any] | None, kind: str = "pairwise") -> Judgement:
    key = f"{number}-{annotator}"
    return Judgement(hash(key) % 10_000, number, annotator, kind, value, 1.0, "", (0, 1), key, NOW)


def choose(number: int, annotator: str, choice: int | None) -> Judgement:
    return judge(number, annotator, {"choice": choice, "strength": 0 if choice is None else 1})


def test_majority_vote_gives_the_shares_of_the_votes() -> None:
    votes = [Vote("x", "ann", 0), Vote("x", "bo", 0), Vote("x", "cy", 1), Vote("y", "ann", 1), Vote("z", "bo", 0)]
    result = majority_vote([*votes, Vote("z", "cy", 1)], n_labels=3)
    np.testing.assert_allclose(result.probabilities["x"], [2 / 3, 1 / 3, 0])
    np.testing.assert_allclose(result.probabilities["y"], [0, 1, 0])
    np.testing.assert_allclose(result.probabilities["z"], [0.5, 0.5, 0])  # equal shares stay equal
    assert result.reliability == pytest.approx({"ann": 5 / 6, "bo": 7 / 12, "cy": 5 / 12})


def test_a_tied_vote_is_a_half_whatever_the_order_of_the_rows() -> None:
    """crowd-kit's own `fit_predict` gives the label of the row that comes first."""
    votes = [Vote("q", "ann", 0), Vote("q", "bob", 1), Vote("r", "ann", 1), Vote("r", "bob", 1)]
    for ordered in (votes, votes[::-1]):
        shares = majority_vote(ordered).probabilities
        assert {item: share.tolist() for item, share in shares.items()} == {"q": [0.5, 0.5], "r": [0.0, 1.0]}


def test_dawid_skene_equals_the_same_expectation_maximisation_in_numpy() -> None:
    _, votes = crowd({"ann": 0.9, "bo": 0.7, "cy": 0.6, "di": 0.3}, n=40)
    answers = np.array([vote.label for vote in votes]).reshape(40, 4)
    posterior = np.stack([(answers == 0).mean(1), (answers == 1).mean(1)], axis=1)
    given = np.stack([answers == 0, answers == 1], axis=-1).astype(float)  # (items, annotators, answer)
    prior = np.array([[3.0, 1.0], [1.0, 3.0]])  # the gold questions of every annotator, 4 a label
    for _ in range(300):
        counts = np.einsum("it,iaj->atj", posterior, given) + prior  # (annotators, truth, answer)
        confusion = counts / counts.sum(-1, keepdims=True)
        priors = (posterior.sum(0) + 4) / (len(posterior) + 8)
        logs = np.log(priors) + np.einsum("iaj,atj->it", given, np.log(confusion))
        posterior = np.exp(logs - logs.max(1, keepdims=True))
        posterior /= posterior.sum(1, keepdims=True)
    result = dawid_skene(votes, n_iter=300)
    # crowd-kit stops where a vote's likelihood changes by less than 1e-5.
    np.testing.assert_allclose(np.stack([result.probabilities[i] for i in range(40)]), posterior, atol=0.01)
    for a, name in enumerate(["ann", "bo", "cy", "di"]):
        np.testing.assert_allclose(result.confusion[name], confusion[a], atol=0.01)


def test_dawid_skene_learns_who_is_right_and_turns_round_who_is_always_wrong() -> None:
    accuracies = {"ann": 0.9, "bo": 0.85, "cy": 0.8, "click": 0.5, "troll": 0.1, "troll 2": 0.1}
    truth, votes = crowd(accuracies)
    result = dawid_skene(votes)
    assert accuracy(majority_vote(votes).probabilities, truth) < 0.7
    assert accuracy(result.probabilities, truth) > 0.95
    assert result.reliability == pytest.approx(accuracies, abs=0.08)


def test_gold_answers_save_a_crowd_whose_majority_is_wrong() -> None:
    truth, votes = crowd({"ann": 0.9, "troll": 0.15, "troll 2": 0.15, "troll 3": 0.15})
    assert accuracy(dawid_skene(votes).probabilities, truth) < 0.2
    gold = {number: truth[number] for number in range(40)}
    result = dawid_skene(votes, gold=gold)
    assert accuracy(result.probabilities, truth) > 0.9
    assert result.reliability["ann"] > 0.75 > 0.4 > result.reliability["troll"]


def test_dawid_skene_is_reproducible_and_leaves_the_random_generators_alone() -> None:
    _, votes = crowd({"ann": 0.9, "bo": 0.6, "cy": 0.6}, n=30)
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    first, second = dawid_skene(votes), dawid_skene(votes)
    assert first.reliability == second.reliability
    assert all(np.array_equal(first.probabilities[i], second.probabilities[i]) for i in range(30))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # type: ignore[index]


def test_symmetric_estimates_do_not_depend_on_which_text_comes_first() -> None:
    _, votes = crowd({"ann": 0.9, "bo": 0.6, "cy": 0.6}, n=30)
    turned = [vote._replace(label=1 - vote.label) if vote.item in range(11) else vote for vote in votes]
    plain, other = dawid_skene(votes, symmetric=True), dawid_skene(turned, symmetric=True)
    for number in range(30):
        p = other.probabilities[number]
        np.testing.assert_allclose(plain.probabilities[number], p[::-1] if number in range(11) else p, atol=1e-9)
    assert plain.reliability == pytest.approx(other.reliability)


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([Vote("x", "ann", 0)], {"x": 0.75}),  # one annotator with one vote: as right as everyone is at first
        ([Vote("x", "ann", 0), Vote("x", "bo", 1)], {"x": 0.5}),  # contradiction
        ([Vote("x", "ann", 0), Vote("x", "ann", 1)], {"x": 0.5}),  # with oneself
        ([Vote("x", "ann", 0), Vote(("y", 1), "ann", 1)], {"x": 0.75, ("y", 1): 0.25}),  # one annotator
    ],
)
def test_few_votes_are_neither_trusted_nor_distrusted_outright(votes: list[Vote], expected: dict[Any, float]) -> None:
    result = dawid_skene(votes, symmetric=True)
    assert {name: p[0] for name, p in result.probabilities.items()} == pytest.approx(expected, abs=0.01)
    assert all(0.4 < reliability < 0.9 for reliability in result.reliability.values())


@pytest.mark.parametrize("aggregate", [majority_vote, dawid_skene])
@pytest.mark.parametrize(
    ("votes", "message"),
    [
        ([], "no votes to aggregate"),
        ([Vote("x", "ann", -1)], "the vote of 'ann' on item 'x' is -1: labels are whole numbers from 0 to 1"),
        ([Vote("x", "ann", 0.5)], "is 0.5"),  # type: ignore[arg-type]
    ],
)
def test_bad_votes_are_named(aggregate: Any, votes: list[Vote], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        aggregate(votes)


def test_bad_gold_answers_are_named() -> None:
    with pytest.raises(ValueError, match="gold answer for item 'y', on which nobody voted"):
        dawid_skene([Vote("x", "ann", 0)], gold={"y": 0})
    with pytest.raises(ValueError, match="gold answer of item 'x' is 7"):
        dawid_skene([Vote("x", "ann", 0)], gold={"x": 7})
    with pytest.raises(ValueError, match="symmetric is for pairs"):
        dawid_skene([Vote("x", "ann", 3)], symmetric=True)


def tournament(looks: dict[str, float], n: int = 12, each: int = 150) -> tuple[np.ndarray, list[PairVote]]:
    """Annotators who look at a share of the pairs and else choose the left one."""
    generator = np.random.default_rng(0)
    strengths = generator.normal(size=n) * 1.5
    comparisons = []
    for name, share in looks.items():
        for _ in range(each):
            i, j = (int(k) for k in generator.choice(n, 2, replace=False))
            wins = generator.random() < 1 / (1 + np.exp(strengths[j] - strengths[i]))
            comparisons.append(PairVote(name, i, j, i if wins or generator.random() > share else j))
    return strengths, comparisons


def test_bradley_terry_of_two_items_is_the_log_odds_of_the_wins() -> None:
    wins = [PairVote("ann", "x", "y", "x")] * 30 + [PairVote("ann", "x", "y", "y")] * 10
    scores = bradley_terry(wins).scores
    # 30 log s(d) + 10 log s(-d) + 2 (log s(d/2) + log s(-d/2)): x and y are each d/2 from the imagined item.
    gaps = np.linspace(0, 3, 30_001)
    penalised = -30 * np.log1p(np.exp(-gaps)) - 10 * np.log1p(np.exp(gaps))
    penalised -= 2 * (np.log1p(np.exp(-gaps / 2)) + np.log1p(np.exp(gaps / 2)))
    assert scores["x"] - scores["y"] == pytest.approx(gaps[penalised.argmax()], abs=1e-3)


def test_an_item_that_never_lost_has_a_finite_score() -> None:
    chain = [PairVote("ann", k, k + 1, k) for k in range(4)]
    for rank in (bradley_terry, noisy_bradley_terry):
        scores = rank(chain).scores
        assert all(np.isfinite(list(scores.values()))), rank
        assert sorted(scores, key=scores.__getitem__, reverse=True) == [0, 1, 2, 3, 4], rank


def test_noisy_bradley_terry_finds_who_looks_and_ranks_better_for_it() -> None:
    looks = {"ann": 1.0, "bo": 0.9, "left": 0.0, "left 2": 0.1, "left 3": 0.0}
    strengths, comparisons = tournament(looks)
    plain, noisy = bradley_terry(comparisons), noisy_bradley_terry(comparisons)

    def error(scores: dict[Any, float]) -> float:
        own = np.array([scores[k] for k in range(len(strengths))])
        return float(np.abs((own - own.mean()) - (strengths - strengths.mean())).mean())

    assert error(noisy.scores) < 0.6 * error(plain.scores)
    assert min(noisy.reliability[name] for name in ("ann", "bo")) > 0.7
    assert max(noisy.reliability[name] for name in ("left", "left 2", "left 3")) < 0.35


def test_the_gradient_of_the_noisy_model_is_that_of_its_loss() -> None:
    from scipy.optimize import approx_fprime

    from rlhf_envs.preferences.ranking import _noisy_loss

    left, right, workers = np.array([[0, 1, 2, 0], [1, 2, 0, 2], [0, 1, 1, 0]])
    arguments = (left, right, np.array([1.0, -1.0, 1.0, -1.0]), workers, 3, 2)
    x = np.random.default_rng(0).normal(size=3 + 2 + 2)
    numeric = approx_fprime(x, lambda x: _noisy_loss(x, *arguments)[0], 1e-7)
    np.testing.assert_allclose(_noisy_loss(x, *arguments)[1], numeric, atol=1e-5)


def test_noisy_bradley_terry_is_reproducible_and_leaves_the_random_generators_alone() -> None:
    _, comparisons = tournament({"ann": 1.0, "bo": 0.0}, each=40)
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    assert noisy_bradley_terry(comparisons) == noisy_bradley_terry(comparisons)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # type: ignore[index]
    other = noisy_bradley_terry(comparisons, seed=1)
    assert other.scores == pytest.approx(noisy_bradley_terry(comparisons).scores, abs=0.01)


@pytest.mark.parametrize("rank", [bradley_terry, noisy_bradley_terry])
def test_bad_comparisons_are_named(rank: Any) -> None:
    with pytest.raises(ValueError, match="no comparisons"):
        rank([])
    with pytest.raises(ValueError, match=r"winner='z'.*the winner must be one of two different sides"):
        rank([PairVote("ann", "x", "y", "z")])


@pytest.mark.parametrize("symmetric", [True, False])
def test_spammers_and_trolls_are_found_and_nobody_else(symmetric: bool) -> None:
    good = {f"good {k}": 0.85 for k in range(8)}
    _, votes = crowd({**good, "click": 0.5, "click 2": 0.5, "troll": 0.1}, n=60)
    if not symmetric:  # one text is nearly always better, and who always says so is a spammer too
        votes += [Vote(1000 + k, name, 0) for k in range(60) for name in (*good, "always 0")]
        votes += [Vote(k, "always 0", 0) for k in range(60)]
    report = find_spammers(votes)
    assert report.spammers == {"click", "click 2", "troll"} | (set() if symmetric else {"always 0"})
    assert report.metrics["click"].probability > 0.5 > report.metrics["good 0"].probability
    assert report.metrics["good 0"].agreement == pytest.approx(0.85, abs=0.1)
    assert report.metrics["click"].n == 60


def test_a_pair_of_a_conversation_stays_one_for_readers_with_a_template() -> None:
    asked = [{"role": "user", "content": "q"}]
    items, judgements = [replace(item(1), prompt="q", meta={"messages": asked})], [choose(1, "ada", 1)]
    (as_messages,) = aggregate_pairs(items, judgements, messages=True)
    (as_lines,) = aggregate_pairs(items, judgements)
    assert [as_messages[name] for name in ("prompt", "chosen", "rejected")] == [asked, "b", "a"]
    assert [as_lines[name] for name in ("prompt", "chosen", "rejected")] == ["User: q\n\nAssistant:", " b", " a"]


def test_with_nobody_to_compare_with_nobody_is_a_spammer() -> None:
    votes = [Vote(k, "ann", k % 2) for k in range(50)]
    report = find_spammers(votes)
    assert report.spammers == set()
    assert report.metrics["ann"].n == 0
    assert np.isnan(report.metrics["ann"].agreement)


def test_few_answers_make_no_spammer() -> None:
    _, votes = crowd({f"good {k}": 0.9 for k in range(5)}, n=50)
    truth, _ = crowd({}, n=50)
    wrong = [Vote(k, "new", 1 - truth[k]) for k in range(9)]
    assert find_spammers(votes + wrong).spammers == set()
    assert find_spammers(votes + wrong, min_answers=5).spammers == {"new"}


def test_bad_questions_about_spammers_are_errors() -> None:
    with pytest.raises(ValueError, match="no answers"):
        find_spammers([])
    with pytest.raises(ValueError, match="answers are of type Rating, Vote"):
        find_spammers([Vote("x", "ann", 0), Rating("ann", "x", 1.0)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="answers are of type tuple"):
        find_spammers([("x", "ann", 0)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"prior \(1\.5\)"):
        find_spammers([Vote("x", "ann", 0)], prior=1.5)


def test_agreement_is_one_where_all_agree_and_about_nought_for_spammers() -> None:
    same = [Vote(k, name, k % 2) for k in range(20) for name in ("ann", "bo")]
    assert agreement(same) == pytest.approx(1.0)
    assert abs(agreement(crowd({"ann": 0.5, "bo": 0.5}, n=400)[1])) < 0.1
    assert agreement([Rating(name, k, k) for k in range(9) for name in ("ann", "bo")], "interval") == pytest.approx(1.0)


def test_votes_on_pairs_agree_as_far_as_the_judgements_they_come_from() -> None:
    generator = np.random.default_rng(0)
    items = [item(number) for number in range(30)]
    choices: list[int | None] = [0, 0, 1, None]
    judgements = [
        choose(number, name, choices[k])
        for name in ("ann", "bo", "cy")
        for number, k in enumerate(np.minimum(np.arange(30) % 4 + generator.integers(2, size=30), 3))
    ]
    votes = pair_votes(items, judgements)
    assert agreement(votes) == pytest.approx(alpha_by_kind(judgements)["pairwise"])
    assert abs(agreement(votes, "nominal") - agreement(votes)) > 0.02  # to which a tie is as far as the opposite
    orders = [judge(7, name, {"order": order}, "ranking") for name, order in (("ann", [2, 0, 1]), ("bo", [2, 1, 0]))]
    ranked = pair_votes([item(7, "ranking", ("a", "b", "c"))], orders)
    assert agreement(ranked) == pytest.approx(alpha_by_kind(orders)["ranking"])


def test_aggregated_pairs_keep_disagreement_as_soft_labels() -> None:
    items = [item(1), item(2), item(3), item(4)]
    judgements = [choose(1, "ann", 0), choose(1, "bo", 0), choose(1, "cy", 1), choose(2, "ann", 1), choose(3, "ann", 0)]
    judgements += [choose(3, "bo", 1), judge(4, "ann", None)]
    rows = aggregate_pairs(items, judgements, "soft")
    assert [row["prompt"] for row in rows] == ["prompt 1", "prompt 2", "prompt 3"]  # the skipped one has no row
    assert [row["probability"] for row in rows] == pytest.approx([2 / 3, 1.0, 0.5])
    assert [(row["chosen"], row["rejected"]) for row in rows[:2]] == [("a", "b"), ("b", "a")]
    assert [row["probability"] for row in aggregate_pairs(items, judgements, "majority")] == [1.0, 1.0, 0.5]
    learned = [row["probability"] for row in aggregate_pairs(items, judgements)]
    assert 0.5 < learned[1] < 1.0  # one vote is not a certainty
    assert learned[2] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("method", ["majority", "dawid_skene", "soft"])
def test_a_tie_is_half_a_vote_for_either(method: Any) -> None:
    judgements = [choose(1, "ann", None), choose(2, "ann", None), choose(2, "bo", 1)]
    first, second = aggregate_pairs([item(1), item(2)], judgements, method)
    assert first["probability"] == pytest.approx(0.5)
    assert second["chosen"] == "b"
    assert second["probability"] > 0.6
    assert method != "soft" or second["probability"] == 0.75


def test_a_ranking_gives_every_pair_of_it() -> None:
    order = judge(7, "ann", {"order": [2, 0, 1]}, "ranking")
    ranked = item(7, "ranking", ("a", "b", "c"))
    votes = pair_votes([ranked], [order])
    assert set(votes) == {Vote((7, 0, 2), "ann", 1), Vote((7, 1, 2), "ann", 1), Vote((7, 0, 1), "ann", 0)}
    rows = aggregate_pairs([ranked], [order], "soft")
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("a", "b"), ("c", "a"), ("c", "b")]


def test_gold_questions_anchor_and_are_not_exported() -> None:
    """Three out of four annotators are wrong on purpose; gold questions say who is not."""
    truth, votes = crowd({"ann": 0.95, "troll": 0.1, "troll 2": 0.1, "troll 3": 0.1}, n=80)
    gold = {"choice": 0, "strength": 1}
    items = [item(k, gold={**gold, "choice": truth[k]} if k < 20 else None) for k in range(80)]
    judgements = [choose(int(vote.item), vote.annotator, vote.label) for vote in votes]  # type: ignore[call-overload]
    rows = aggregate_pairs(items, judgements)
    assert [row["prompt"] for row in rows] == [f"prompt {k}" for k in range(20, 80)]
    right = [row["chosen"] == "ab"[truth[k]] for k, row in enumerate(rows, start=20)]
    assert np.mean(right) > 0.9


def test_what_compares_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no votes in 1 judgements of 1 items"):
        aggregate_pairs([item(1)], [judge(1, "ann", None)])
    with pytest.raises(ValueError, match="no votes in 0 judgements"):
        aggregate_pairs([], [])
    with pytest.raises(ValueError, match="is of item 2, which is not among the items"):
        aggregate_pairs([item(1)], [choose(2, "ann", 0)])
    with pytest.raises(ValueError, match="is a 'rating', which compares no two texts"):
        aggregate_pairs([item(1, "rating", ("a",))], [judge(1, "ann", {"rating": 3}, "rating")])
    with pytest.raises(ValueError, match="unknown method 'mean'"):
        aggregate_pairs([item(1)], [choose(1, "ann", 0)], "mean")  # type: ignore[arg-type]


def test_probabilities_stay_in_their_range_whatever_is_voted() -> None:
    for labels in itertools.combinations_with_replacement((0, 1, TIE), 2):
        judgements = [
            choose(1, name, None if label == TIE else label) for name, label in zip("ab", labels, strict=True)
        ]
        for method in ("majority", "soft", "dawid_skene"):
            (row,) = aggregate_pairs([item(1)], judgements, method)  # type: ignore[arg-type]
            assert 0.5 <= row["probability"] <= 1.0, (labels, method)


def test_a_missing_crowd_kit_is_explained() -> None:
    code = (
        "import sys; sys.modules['crowdkit'] = None\n"
        "from rlhf_envs.preferences.crowd import Vote, majority_vote\n"
        "assert 'pandas' not in sys.modules and 'torch' not in sys.modules\n"
        "majority_vote([Vote('x', 'ann', 0)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "rlhf-envs[agreement]"' in done.stderr, done.stderr
