"""Bradley-Terry: its loss in closed form, its fit against a known utility, its normalisation."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

from rlhf_envs.models import load_tokenizer
from rlhf_envs.preferences import evaluate_pairs, fit_bradley_terry, normalise, pairwise_loss
from rlhf_envs.preferences.bradley_terry import pair_texts
from rlhf_envs.preferences.training import make_batches
from rlhf_envs.rewards.reward_model import RewardModel, score_ids, score_texts

PAIR = {"prompt": "it was", "chosen": " good", "rejected": " bad"}


def small_model(num_labels: int = 1) -> GPT2ForSequenceClassification:
    torch.manual_seed(0)
    vocab = len(load_tokenizer("tiny"))
    config = GPT2Config(vocab_size=vocab, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    config.num_labels = num_labels
    config.pad_token_id = None
    return GPT2ForSequenceClassification(config).eval()


def pairs_by_word(n: int, seed: int) -> list[dict[str, object]]:
    """Pairs in which the text with more of "good" is chosen, whatever else it says."""
    generator = random.Random(seed)
    filler = ["the", "film", "plot", "and", "it", "actor", "bad"]
    pairs: list[dict[str, object]] = []
    for _ in range(n):
        chosen, rejected = (" ".join(generator.choices(filler, k=generator.randint(2, 9))) for _ in range(2))
        pairs.append({"prompt": "it was ", "chosen": f"{chosen} good film", "rejected": f"{rejected} film"})
    return pairs


def test_the_loss_is_the_closed_form() -> None:
    chosen, rejected, margin = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 2.0]), torch.tensor([0.0, 0.25])
    expected = np.mean([np.log(1 + np.exp(-0.5)), np.log(1 + np.exp(2.25))])
    assert float(pairwise_loss(chosen, rejected, margin)) == pytest.approx(expected, rel=1e-6)
    assert float(pairwise_loss(chosen, chosen)) == pytest.approx(np.log(2), rel=1e-6)


def test_its_gradient_is_the_probability_of_being_wrong() -> None:
    difference = torch.tensor([0.7], requires_grad=True)
    pairwise_loss(difference, torch.zeros(1)).backward()
    assert difference.grad is not None
    assert float(difference.grad) == pytest.approx(-1 / (1 + np.exp(0.7)), rel=1e-6)


def test_padding_changes_neither_scores_nor_gradients() -> None:
    model = small_model()
    model.config.pad_token_id = 0
    rows = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3, 2]]
    score_ids(model, rows).sum().backward()
    together = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    scores = score_ids(model, rows)
    model.zero_grad()
    for row, score in zip(rows, scores, strict=True):
        alone = model(input_ids=torch.tensor([row])).logits[0, 0]
        assert float(score.detach()) == pytest.approx(float(alone.detach()), abs=1e-6)
        alone.backward()
    alone_grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(together, alone_grads, strict=True))


def test_it_recovers_a_known_preference_and_not_a_random_one() -> None:
    model, tokenizer = small_model(), load_tokenizer("tiny")
    held_out = pairs_by_word(100, seed=1)
    before = evaluate_pairs(model, tokenizer, held_out)
    after = fit_bradley_terry(
        model, tokenizer, pairs_by_word(400, seed=2), held_out, epochs=2, batch_size=16, learning_rate=3e-3
    )
    assert before.accuracy < 0.9
    assert after.accuracy > 0.97
    assert after.loss < 0.2
    assert after.n == 100
    swapped = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in held_out]
    assert evaluate_pairs(model, tokenizer, swapped).accuracy == pytest.approx(1 - after.accuracy)


def test_one_pair_is_fitted_to_its_stated_probability_with_a_margin() -> None:
    """Where one text wins 3 of 4 comparisons, the maximum-likelihood difference is log 3; a margin raises it."""
    tokenizer = load_tokenizer("tiny")
    forth, back = {"chosen": "good", "rejected": "bad"}, {"chosen": "bad", "rejected": "good"}
    for margin in (0.0, 0.5):
        model = small_model()
        pairs = [*[{**forth, "margin": margin}] * 3, {**back, "margin": margin}]
        fit_bradley_terry(
            model, tokenizer, pairs, [forth], epochs=80, batch_size=4, learning_rate=1e-2, weight_decay=0.0
        )
        good, bad = score_texts(model, tokenizer, ["good", "bad"])
        # The derivative of 3 log s(d - m) + log s(-d - m) is 0 at the fitted d.
        difference, sigmoid = good - bad, lambda x: 1 / (1 + np.exp(-x))
        assert 3 * sigmoid(margin - difference) == pytest.approx(sigmoid(margin + difference), abs=0.03)
        if margin == 0.0:
            assert difference == pytest.approx(np.log(3), abs=0.05)


def test_a_soft_label_is_the_cross_entropy_of_the_two_sides() -> None:
    chosen, rejected = torch.tensor([1.2, -0.3]), torch.tensor([0.2, 0.9])
    probability, margin = torch.tensor([0.8, 0.5]), torch.tensor([0.0, 0.25])
    d, p, m = (chosen - rejected).numpy(), probability.numpy(), margin.numpy()
    expected = p * np.log1p(np.exp(-(d - m))) + (1 - p) * np.log1p(np.exp(d + m))
    assert float(pairwise_loss(chosen, rejected, margin, probability)) == pytest.approx(expected.mean(), rel=1e-6)
    weight = torch.tensor([0.5, 1.5])
    weighted = float(pairwise_loss(chosen, rejected, margin, probability, weight))
    assert weighted == pytest.approx((expected * [0.5, 1.5]).mean(), rel=1e-6)


@pytest.mark.parametrize(
    "pairs",
    [
        [{"chosen": "good", "rejected": "bad", "probability": 0.75}],
        [{"chosen": "good", "rejected": "bad", "weight": 30.0}, {"chosen": "bad", "rejected": "good", "weight": 10.0}],
    ],
    ids=["probability", "weights"],
)
def test_the_fitted_difference_is_the_log_odds_of_the_stated_share(pairs: list[dict[str, object]]) -> None:
    model, tokenizer = small_model(), load_tokenizer("tiny")
    fit_bradley_terry(
        model, tokenizer, pairs, pairs, epochs=80, batch_size=4, learning_rate=1e-2, weight_decay=0.0, train="full"
    )
    good, bad = score_texts(model, tokenizer, ["good", "bad"])
    assert good - bad == pytest.approx(np.log(3), abs=0.05)


def test_a_tie_draws_two_texts_together() -> None:
    model, tokenizer = small_model(), load_tokenizer("tiny")
    pairs = [{"chosen": "good", "rejected": "bad"}, {"chosen": "film", "rejected": "plot", "probability": 0.5}]
    fit_bradley_terry(model, tokenizer, pairs, pairs, epochs=80, batch_size=2, learning_rate=1e-2, weight_decay=0.0)
    good, bad, film, plot = score_texts(model, tokenizer, ["good", "bad", "film", "plot"])
    assert good - bad > 2.0
    assert abs(film - plot) < 0.05


def test_ties_count_for_the_loss_and_not_for_the_accuracy() -> None:
    model, tokenizer = small_model(), load_tokenizer("tiny")
    model.config.pad_token_id = 0
    good, bad = score_texts(model, tokenizer, ["good", "bad"])
    first, second = ("good", "bad") if good > bad else ("bad", "good")
    d = abs(good - bad)
    tie = {"chosen": first, "rejected": second, "probability": 0.5}
    measured = evaluate_pairs(model, tokenizer, [{"chosen": first, "rejected": second, "probability": 0.9}, tie])
    losses = [p * np.log1p(np.exp(-d)) + (1 - p) * np.log1p(np.exp(d)) for p in (0.9, 0.5)]
    assert measured.accuracy == 1.0
    assert measured.loss == pytest.approx(np.mean(losses), rel=1e-6)
    assert evaluate_pairs(model, tokenizer, [tie]).accuracy == 0.5


@pytest.mark.parametrize("probability", [0.5, None])
def test_pairs_that_prefer_nothing_are_an_error(probability: float | None) -> None:
    back = {"prompt": "it was", "chosen": " bad", "rejected": " good", "probability": probability}
    pairs = [{**PAIR, "probability": probability}, back]
    with pytest.raises(ValueError, match="the 2 pairs prefer nothing: each is a tie"):
        fit_bradley_terry(small_model(), load_tokenizer("tiny"), pairs, [PAIR])
    fit_bradley_terry(small_model(), load_tokenizer("tiny"), [*pairs, PAIR], [PAIR])  # contradicted, but a majority


def test_accuracy_and_loss_equal_a_count_by_hand_and_ties_count_half() -> None:
    model, tokenizer = small_model(), load_tokenizer("tiny")
    model.config.pad_token_id = 0
    texts = ["good", "bad", "film", "plot"]
    good, bad, film, plot = score_texts(model, tokenizer, texts)
    pairs = [
        {"prompt": "go", "chosen": "od", "rejected": "od"},
        {"chosen": "good", "rejected": "bad"},
        {"prompt": "", "chosen": "film", "rejected": "plot"},
    ]
    measured = evaluate_pairs(model, tokenizer, pairs)
    differences = np.array([0.0, good - bad, film - plot])
    assert measured.accuracy == pytest.approx((0.5 + (good > bad) + (film > plot)) / 3)
    assert measured.loss == pytest.approx(np.mean(np.log1p(np.exp(-differences))), rel=1e-6)


def test_normalised_scores_have_mean_0_and_deviation_1_after_saving_and_loading(tmp_path: Path) -> None:
    model, tokenizer = small_model(), load_tokenizer("tiny")
    model.config.pad_token_id = 0
    references = ["good film", "bad", "the plot of it", "an actor", "and the film"]
    raw = score_texts(model, tokenizer, references)
    gain, bias = normalise(model, tokenizer, references)
    assert gain == pytest.approx(1 / raw.std())
    assert bias == pytest.approx(-raw.mean() / raw.std())
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    scores = RewardModel(str(tmp_path)).score(references, [""] * len(references))
    assert scores.mean() == pytest.approx(0.0, abs=1e-4)
    assert scores.std() == pytest.approx(1.0, abs=1e-4)


def test_a_fitted_model_loads_as_trl_loads_one(tmp_path: Path) -> None:
    model, tokenizer = small_model(), load_tokenizer("tiny")
    fit_bradley_terry(model, tokenizer, [PAIR], [PAIR])
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    assert loaded.config.pad_token_id == tokenizer.pad_token_id
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["config.json", "model.safetensors"]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_the_same_seed_gives_the_same_weights() -> None:
    tokenizer = load_tokenizer("tiny")
    models = []
    for _ in range(2):
        model = small_model()
        fit_bradley_terry(model, tokenizer, pairs_by_word(20, seed=3), [PAIR], batch_size=4, seed=7)
        models.append(model)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_messages_are_the_texts_that_the_chat_template_writes() -> None:
    tokenizer = copy.deepcopy(load_tokenizer("tiny"))  # other tests are given the same object
    asked, says = [{"role": "user", "content": "Hi"}], lambda text: [{"role": "assistant", "content": text}]
    pairs = [{"prompt": asked, "chosen": says("Hello"), "rejected": says("No")}]
    assert pair_texts(pairs) == ["User: Hi\n\nAssistant: Hello", "User: Hi\n\nAssistant: No"]
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}" + (
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert pair_texts(pairs, tokenizer) == ["<user>Hi<assistant>Hello", "<user>Hi<assistant>No"]


def test_every_pair_is_in_one_batch_of_an_epoch() -> None:
    batches = make_batches([i % 7 + 1 for i in range(101)], 8, random.Random(0))
    assert sorted(i for batch in batches for i in batch) == list(range(101))
    assert max(map(len, batches)) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pairs": []}, "0 pairs to fit and 1 held out"),
        ({"held_out": []}, "1 pairs to fit and 0 held out"),
        ({"pairs": [PAIR, {"prompt": "x", "chosen": "y"}]}, "pair 1 needs 'chosen' and 'rejected' as strings"),
        ({"pairs": [{"chosen": [{"role": "user"}], "rejected": "y"}]}, "pair 0: 'chosen' has a message"),
        ({"pairs": [{**PAIR, "margin": -1.0}]}, r"pair 0: the margin is -1\.0"),
        ({"pairs": [{**PAIR, "margin": float("nan")}]}, "pair 0: the margin is nan, not a number of at least 0"),
        ({"pairs": [{**PAIR, "margin": "wide"}]}, "pair 0: the margin is 'wide'"),
        ({"pairs": [PAIR, {**PAIR, "probability": 0.3}]}, r"pair 1: .* is 0\.3, not .*0\.5 to 1: swap chosen and rej"),
        ({"pairs": [{**PAIR, "probability": 1.2}]}, r"pair 0: the probability is 1\.2"),
        ({"pairs": [{**PAIR, "weight": 0.0}]}, r"pair 0: the weight is 0\.0, not a number of > 0"),
        ({"pairs": [{**PAIR, "weight": float("inf")}]}, "pair 0: the weight is inf"),
        ({"pairs": [{**PAIR, "rejected": " good"}]}, "the 1 pairs prefer nothing"),
        ({"batch_size": 0}, r"epochs \(1\) and batch_size \(0\) must be at least 1"),
        ({"model": 2}, "one label, this model has 2"),
        ({"learning_rate": 1e30, "epochs": 3}, "the loss is nan at step 2 of 3: lower learning_rate"),
    ],
)
def test_bad_input_is_an_error_that_says_what_to_do(arguments: dict[str, Any], message: str) -> None:
    model = small_model(arguments.pop("model", 1))
    given = {"pairs": [PAIR], "held_out": [PAIR], **arguments}
    with pytest.raises(ValueError, match=message):
        fit_bradley_terry(model, load_tokenizer("tiny"), **given)


def test_nothing_can_be_normalised_by_equal_scores() -> None:
    model, tokenizer = small_model(), load_tokenizer("tiny")
    model.config.pad_token_id = 0
    with pytest.raises(ValueError, match="2 references with a standard deviation of 0"):
        normalise(model, tokenizer, ["same", "same"])
