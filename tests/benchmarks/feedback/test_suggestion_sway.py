"""How much a suggestion sways: whoever follows it always says what it says, and its leaning becomes the labels'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

ANCHORINGS = [0.0, 0.5, 1.0]


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Snippets whose raters mostly agree, in lengths that have nothing to do with how good they are."""
    generator = np.random.default_rng(0)
    found = []
    for k in range(400):
        ratings = np.clip(np.round(generator.normal(generator.uniform(1, 9), 1.5, size=5)), 1, 9).tolist()
        text = "x" * int(generator.integers(5, 200))
        found.append({"ratings": ratings, "mean": float(np.mean(ratings)), "text": text})
        found[-1]["split"] = "test" if k % 4 == 0 else "train"
    return found


def measured(benchmark: Any, rows: list[dict[str, Any]], length_bias: float, noise: float) -> dict[str, np.ndarray]:
    lengths = np.log([len(row["text"]) for row in rows])
    means = np.array([row["mean"] for row in rows])
    embeddings = np.stack([(each - each.mean()) / each.std() for each in (means, lengths)], axis=1)
    module = benchmark("suggestion_sway")
    figures = module.measure(rows, embeddings, ANCHORINGS, 600, length_bias, noise, seed=0)
    return dict(zip(module.COLUMNS, figures.T, strict=True))


def test_whoever_follows_a_model_that_knows_the_means_is_always_right(benchmark: Any, rows: list[Any]) -> None:
    found = measured(benchmark, rows, length_bias=0.0, noise=0.0)
    assert found["right"][2] == found["agrees with the model"][2] == 1
    assert found["right"][0] == found["agrees with the model"][0] < 0.95
    assert found["right"][0] < found["right"][1] < 1
    # Half of those whose own answer differs follow.
    assert 1 - found["right"][1] == pytest.approx((1 - found["right"][0]) / 2, abs=0.05)


def test_a_model_that_likes_long_texts_makes_the_labels_and_the_reward_model_like_them(
    benchmark: Any, rows: list[Any]
) -> None:
    found = measured(benchmark, rows, length_bias=2.0, noise=0.1)
    assert abs(found["longer wins"][0] - 0.5) < 0.06, "people do not care"
    assert found["longer wins"][2] > 0.75
    assert np.all(np.diff(found["longer wins"]) > 0.05)
    assert np.all(np.diff(found["right"]) < -0.05)
    assert abs(found["reward model, r with length"][0]) < 0.25
    assert found["reward model, r with length"][2] > 0.7
    assert found["reward model right"][0] > 0.9 > found["reward model right"][2]


def test_it_prints_the_change_from_no_anchoring(
    benchmark: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = benchmark("suggestion_sway")
    vectors = np.random.default_rng(0).normal(size=(1500, 6))
    monkeypatch.setattr(benchmark("next_item"), "embed_texts", lambda texts, model: vectors[: len(texts)])
    sizes = ["--pairs", "40", "--snippets", "1500", "--seeds", "3"]
    module.main([*sizes, "--anchoring", "0", "1"])
    lines = capsys.readouterr().out.splitlines()
    none, whole = (next(line for line in lines if line.startswith(f"| {k} | ")) for k in (0, 1))
    assert ";" not in none
    assert whole.startswith("| 1 | 1.000; +0.")
    for wrong in (["--anchoring", "0.5", "1"], ["--anchoring", "0", "--seeds", "2"]):
        with pytest.raises(SystemExit):
            module.main([*sizes, *wrong])
