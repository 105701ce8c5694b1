"""Which item to ask next: every order asks what it says, and all meet when everything is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

from rlhf_envs.preferences.next_item import fit_heads


@pytest.fixture
def pools(benchmark: Any) -> tuple[Any, Any]:
    """Pairs whose answers follow a linear model, to ask about and held out."""
    generator = np.random.default_rng(0)
    head = generator.normal(size=8)
    features = generator.normal(size=(180, 8))
    answers = (generator.random(180) < 1 / (1 + np.exp(-2 * features @ head))).astype(float)
    pool = benchmark("queries").Pool
    return pool(features[:120], answers[:120]), pool(features[120:], answers[120:])


def accuracy(pool: Any, held_out: Any, asked: Any) -> float:
    lead = held_out.features @ fit_heads(pool.features[asked], pool.answers[asked], seed=3).mean(axis=0)
    return float(np.mean((lead > 0) == (held_out.answers > 0.5)))


def test_age_asks_in_the_files_order_and_the_others_share_a_random_start(benchmark: Any, pools: Any) -> None:
    module = benchmark("next_item")
    pool, held_out = pools
    curves = {order: module.learning_curve(order, pool, held_out, [10, 25, 40], 10, 3) for order in module.ORDERS}
    assert curves["age"] == [accuracy(pool, held_out, np.arange(n)) for n in (10, 25, 40)]
    drawn = np.random.default_rng(3).permutation(120)
    assert curves["random"] == [accuracy(pool, held_out, drawn[:n]) for n in (10, 25, 40)]
    assert len({curve[0] for order, curve in curves.items() if order != "age"}) == 1


def test_all_orders_ask_each_pair_once_and_each_order_asks_others_first(
    benchmark: Any, pools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = benchmark("next_item")
    pool, held_out = pools
    seen: list[np.ndarray] = []
    first: set[bytes] = set()

    def note(features: np.ndarray, answers: np.ndarray, **options: Any) -> np.ndarray:
        seen.append(features)
        return fit_heads(features, answers, **options)

    monkeypatch.setattr(module, "fit_heads", note)
    for order in module.ORDERS:
        module.learning_curve(order, pool, held_out, [60, 120], 50, 0)
        half, whole = seen[-2:]
        assert (len(half), len(np.unique(half, axis=0))) == (60, 60)
        first.add(np.unique(half, axis=0).tobytes())
        assert np.array_equal(np.unique(whole, axis=0), np.unique(pool.features, axis=0))
    assert len(first) == len(module.ORDERS)


def test_a_pool_is_in_the_order_of_the_file(benchmark: Any) -> None:
    rows = [{"ratings": [k, k + 1, k + 2], "mean": k + 1, "split": "train"} for k in range(30)]
    pool = benchmark("next_item").load_pool(rows, np.eye(30), 40, seed=0)
    pairs = list(zip(pool.features.argmax(axis=1).tolist(), pool.features.argmin(axis=1).tolist(), strict=True))
    assert len(set(pairs)) == 40
    assert pairs == sorted(pairs)
    assert [answer == 1 for answer in pool.answers] == [left > right for left, right in pairs]


def test_components_are_those_of_a_library_at_a_mean_norm_of_one(benchmark: Any) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 6)) * [5, 4, 3, 2, 1, 0.5]
    kept = benchmark("next_item").components(vectors, 3)
    expected = PCA(3).fit_transform(vectors)
    scale = np.linalg.norm(expected, axis=1).mean()
    np.testing.assert_allclose(np.abs(kept), np.abs(expected) / scale, atol=1e-9)


def test_it_prints_every_order_beside_random(
    benchmark: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = benchmark("next_item")
    vectors = np.random.default_rng(0).normal(size=(1500, 6))
    monkeypatch.setattr(module, "embed_texts", lambda texts, model: vectors[: len(texts)])
    sizes = ["--pool", "40", "--snippets", "1500", "--labels", "20", "10", "--every", "10"]
    module.main([*sizes, "--seeds", "5"])
    out = capsys.readouterr().out
    assert "| order | 10 labels | 20 labels |" in out
    rows = {line.split(" | ")[0].strip("| "): line for line in out.splitlines() if "±" in line and "|" in line}
    assert list(rows) == list(module.ORDERS)
    assert "(" not in rows["random"]
    assert "(" in rows["gain"]
    with pytest.raises(SystemExit):
        module.main([*sizes, "--seeds", "4"])
