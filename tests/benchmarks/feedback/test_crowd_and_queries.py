"""The benchmarks of what people's answers are worth: their claims at a small size, and that they run."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_envs.preferences.next_item import fit_head

ROOT = Path(__file__).resolve().parents[3]
PARTS = ("development", "test")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of `benchmarks`, which is not installed."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_the_kth_rating_is_one_persons_within_a_batch_and_anothers_in_the_next(benchmark: Any) -> None:
    within, across = benchmark("feedback.crowd").check_identity(benchmark("feedback.crowd").load_batches())
    assert within > 0.3
    assert abs(across) < 0.1


def test_aggregation_beats_the_majority_on_real_raters_and_finds_the_planted_clickers(benchmark: Any) -> None:
    pytest.importorskip("crowdkit", reason="needs the extra agreement")
    crowd = benchmark("feedback.crowd")
    batches = crowd.part_of(crowd.load_batches(), "development")[:12]
    figures = crowd.measure(batches, crowd.Panel(5, 4, span=3), n_pairs=40, seed=0)
    assert figures["pairs: Dawid-Skene"] > figures["pairs: majority"] + 0.01
    assert figures["ranks: cleaned rating"] > figures["ranks: mean rating"] + 0.1
    assert figures["found by ratings"] > 0.9
    assert figures["real called so by ratings"] < 0.1


def test_panels_are_compared_with_a_clean_order_that_knows_nothing_of_them(benchmark: Any) -> None:
    crowd = benchmark("feedback.crowd")
    batch = np.random.default_rng(0).permuted(np.tile(np.arange(5.0), (7, 1)), axis=1)
    for panel, size in ((crowd.Panel(2, 3), 2), (crowd.Panel(None, 3), 3)):
        ratings, votes, clean = crowd.answers([batch], panel, n_pairs=99, seed=0)
        names = {rating.annotator for rating in ratings}
        seated = [k for k in range(len(batch)) if f"real-0-{k}" in names]
        assert (len(seated), len(names)) == (size, size + 3)
        others = np.delete(batch, seated, axis=0).mean(axis=0)
        assert [clean[0, i] for i in range(5)] == pytest.approx(others.tolist())
        assert len(votes) == 10 * len(names)
        for vote in (vote for vote in votes if vote.annotator == f"real-0-{seated[0]}"):
            first, second = (batch[seated[0], i] for _, i in vote.item)
            assert vote.label == int(second > first)


def test_constants_are_chosen_on_batches_that_no_figure_is_of(benchmark: Any) -> None:
    crowd = benchmark("feedback.crowd")
    batches = [np.full((1, 1), float(number)) for number in range(11)]
    parts = [{float(batch) for batch in np.concatenate(crowd.part_of(batches, part)).ravel()} for part in PARTS]
    assert parts[0] & parts[1] == set()
    assert parts[0] | parts[1] == set(range(11))


def test_crowd_prints_its_table(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("crowdkit", reason="needs the extra agreement")
    crowd = benchmark("feedback.crowd")
    crowd.main(["--seeds", "2", "--batches", "1", "--pairs", "5", "--panels", "1"])
    out = capsys.readouterr().out
    for name in ("pairs: Dawid-Skene", "ranks: noisy B.-T.", "found by ratings", "better in "):
        assert name in out
    with pytest.raises(SystemExit):  # rather than use a batch twice
        crowd.main(["--seeds", "6", "--batches", "30"])
    assert "6 seeds of 30 batches are more than the 177 test batches" in capsys.readouterr().err


def test_a_linear_head_is_the_minimum_of_its_penalised_loss() -> None:
    generator = np.random.default_rng(0)
    features, weights = generator.normal(size=(50, 4)), generator.integers(0, 3, 50).astype(float)
    answers = (generator.random(50) < 0.5).astype(float)
    head = fit_head(features, answers, weights, decay=0.7)

    def loss(w: np.ndarray) -> float:
        lead = features @ w
        return (
            float(weights @ (np.logaddexp(0, -lead) * answers + np.logaddexp(0, lead) * (1 - answers))) + 0.35 * w @ w
        )

    for step in 1e-3 * np.concatenate([np.eye(4), -np.eye(4)]):
        assert loss(head) < loss(head + step)


def test_pools_hold_out_whole_snippets_and_ask_those_who_saw_both_texts(benchmark: Any) -> None:
    queries = benchmark("feedback.queries")
    rows = [
        {"ratings": [k, 8 - k, k], "mean": (8 + k) / 3, "split": "test" if k % 5 == 0 else "train"} for k in range(30)
    ]
    names = np.eye(30)  # as embeddings, which name the snippets of a pair
    pool = queries.load_pool(rows, names, 40, "all", seed=0)
    held_out = queries.held_out_pairs(rows, names, "test", 10)
    for features, tested in ((pool.features, False), (held_out.features, True)):
        left, right = features.argmax(axis=1), features.argmin(axis=1)
        assert set((np.concatenate([left, right]) % 5 == 0).tolist()) == {tested}
    np.testing.assert_array_equal(pool.answers, pool.features.argmax(1) > pool.features.argmin(1))
    single = queries.load_pool(rows, names, 40, "one", seed=0)
    wrong = np.mean(single.answers != (single.features.argmax(1) > single.features.argmin(1)))
    assert 0.1 < wrong < 0.6  # one in three rates the other way round


def test_a_strategy_labels_what_its_budget_allows_and_all_meet_at_the_whole_pool(benchmark: Any) -> None:
    queries = benchmark("feedback.queries")
    generator = np.random.default_rng(0)
    head = generator.normal(size=8)
    features = generator.normal(size=(140, 8))
    answers = (generator.random(140) < 1 / (1 + np.exp(-2 * features @ head))).astype(float)
    pool, held_out = (queries.Pool(features[part], answers[part]) for part in (slice(0, 100), slice(100, 140)))
    curves = {
        strategy: queries.learning_curve(strategy, pool, held_out, [0.05, 0.25, 1.0], members=3, decay=1.0, seed=0)
        for strategy in queries.STRATEGIES
    }
    assert len({curve[0] for curve in curves.values()}) == 1  # the same random start
    assert len({curve[-1] for curve in curves.values()}) == 1
    assert all(curve[-1] > 0.7 for curve in curves.values())


def test_few_seeds_need_more_standard_errors_to_beat_random(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = 0.01 * np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    error = seeds.std(ddof=1) / 5**0.5
    gains = {"disagreement": 2.7, "uncertainty": -2.9, "diverse": 2.9}  # in standard errors; the quantile is 2.776
    curves = {"random": [[0.7]] * 5, **{name: [[0.7 + k * error + s] for s in seeds] for name, k in gains.items()}}
    benchmark("feedback.queries").print_table(curves, [0.25], 2000)
    verdicts = [line.rsplit(": ")[-1] for line in capsys.readouterr().out.splitlines()[-3:]]
    assert verdicts == ["no clear difference", "is worse than random", "beats random"]


def test_queries_prints_and_draws(
    benchmark: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = benchmark("feedback.queries")
    sizes = ["--seeds", "2", "--pool", "60", "--members", "2", "--snippets", "1500", "--labels", "one"]
    vectors = np.random.default_rng(0).normal(size=(1500, 6))
    monkeypatch.setattr(queries, "embed_texts", lambda texts, model: vectors[: len(texts)])
    queries.main([*sizes, "--output", str(tmp_path / "queries.png")])
    out = capsys.readouterr().out
    for strategy in queries.STRATEGIES:
        assert f"| {strategy} | " in out
    assert "diverse at 25% of the labels: " in out
    assert (tmp_path / "queries.png").stat().st_size > 5000


def test_embeddings_do_not_depend_on_what_else_is_in_the_batch(benchmark: Any) -> None:
    queries = benchmark("feedback.queries")
    texts = ["a good film", "a film that is much too long, and then longer still", "bad"]
    together = queries.embed_texts(texts, "tiny")
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-6)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(queries.embed_texts([text], "tiny")[0], row, atol=1e-5)
