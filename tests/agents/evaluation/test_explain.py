"""Explanations of scores: attributions, the deletion test, and where a policy parts from its reference."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from agents.evaluation.explain.attribution import Text, attribute
from agents.evaluation.explain.deletion import deletion_test
from agents.evaluation.explain.explain import explain, explain_reward
from agents.evaluation.explain.leaves import TOTAL, leaves_of
from agents.evaluation.explain.page import as_page
from agents.evaluation.explain.units import cut_at, spread, word_starts
from rlhf_envs.models import load_causal_lm
from rlhf_envs.rewards import FunctionReward, evaluate_reward, get_reward
from rlhf_envs.rewards.aspects import AspectReward
from rlhf_envs.rewards.constraints import find_constraints
from rlhf_envs.rewards.ensemble import RewardEnsemble
from rlhf_envs.rewards.reward_model import SIGMOID, RewardModel, encode, model_length

REVIEW = " a wonderful film, but the ending was terribly boring."
WORDS = {"good": 1.0, "bad": -2.0}


def opinion(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Score by words: +1 for "good", -2 for "bad", wherever they stand."""
    texts = [f"{said(prompt)} {said(completion)}" for prompt, completion in zip(prompts, completions, strict=True)]
    return [sum(WORDS.get(word, 0.0) for word in text.split()) for text in texts]


def said(text: Any) -> str:
    return text if isinstance(text, str) else " ".join(message["content"] for message in text)


@pytest.fixture(scope="module")
def reward() -> RewardModel:
    found = get_reward("tiny-reward")
    assert isinstance(found, RewardModel)
    return found


@pytest.fixture
def captum() -> None:
    pytest.importorskip("captum")


def test_leave_one_out_is_what_the_score_loses() -> None:
    found = explain_reward(opinion, "it was good", " but bad")
    values = dict(zip([unit.text for unit in found.units], found.total.values.tolist(), strict=True))
    assert values == {"it": 0, " was": 0, " good": 1.0, " but": 0, " bad": -2.0}
    assert [unit.part for unit in found.units] == ["prompt"] * 3 + ["completion"] * 2
    assert (found.total.score, found.total.baseline, found.total.delta) == (-1.0, 0.0, 0.0)


def test_leave_one_out_explains_the_last_message_of_a_conversation() -> None:
    prompt = [{"role": "system", "content": "bad"}, {"role": "user", "content": "good day"}]
    units, components, _ = attribute(opinion, Text(prompt, "bad"))
    assert [(unit.text, value) for unit, value in zip(units, components[TOTAL].values.tolist(), strict=True)] == [
        ("good", 1.0),
        (" day", 0.0),
        ("bad", -2.0),
    ]
    assert components[TOTAL].score == -3.0


@pytest.mark.usefixtures("captum")
def test_integrated_gradients_are_those_of_a_sum_over_the_path(reward: RewardModel) -> None:
    found = explain_reward(reward, REVIEW)
    (ids,) = encode(reward.tokenizer, [REVIEW], model_length(reward.model))
    table: Any = reward.model.get_input_embeddings()
    vectors = table(torch.tensor([ids])).detach()
    start, n = table.weight.detach().mean(dim=0).expand_as(vectors), 100
    gradient = torch.zeros_like(vectors)
    for i in range(n):  # the middles of n steps
        point = (start + (i + 0.5) / n * (vectors - start)).requires_grad_()
        reward.model(inputs_embeds=point).logits.sum().backward()
        gradient += point.grad / n
    expected = ((vectors - start) * gradient).sum(dim=-1)[0] * reward.gain
    assert [unit.text for unit in found.units] == [reward.tokenizer.decode([token]) for token in ids]
    np.testing.assert_allclose(found.total.values, expected.numpy(), atol=2e-3)
    assert abs(found.total.delta) < 1e-3
    assert found.total.score == pytest.approx(reward.score([""], [REVIEW])[0], abs=1e-4)
    assert found.units[int(found.total.values.argmin())].text == " boring"


def test_aspects_are_explained_each_by_itself_with_the_prices_of_their_limits() -> None:
    aspects = {
        "good": {"weight": 3, "reward": lambda **given: [float(text.count("good")) for text in given["completions"]]},
        "bad": {"limit": 0.5, "reward": lambda **given: [float(text.count("bad")) for text in given["completions"]]},
        "long": {"at_least": 2, "reward": lambda **given: [float(len(text.split())) for text in given["completions"]]},
    }
    reward = AspectReward(aspects)
    for constrained, price in zip(find_constraints(reward), (10.0, 4.0), strict=True):  # of "long" and "bad"
        constrained.multiplier = price
    leaves, constant = leaves_of(reward)
    assert {leaf.name: leaf.weight for leaf in leaves} == {"good": 3, "bad": -4, "long": 10}
    found = explain_reward(reward, "", "good bad")
    assert {name: one.values.tolist() for name, one in found.components.items()} == {
        TOTAL: [3 + 10, -4 + 10],
        "good": [1, 0],
        "bad": [0, 1],
        "long": [1, 1],
    }
    assert constant == 4 * 0.5 - 10 * 2
    assert found.total.score == 3 - 4 + 20 + constant


@pytest.mark.usefixtures("captum")
def test_a_composed_reward_is_explained_by_component(reward: RewardModel) -> None:
    both = 0.5 * reward - 2 * FunctionReward(opinion) + 1
    text = Text("a good film", " and a bad plot")
    _, found, _ = attribute(both, text)
    assert {name: (one.method, one.weight) for name, one in found.items()} == {
        TOTAL: ("both", 1.0),
        reward.name: ("integrated_gradients", 0.5),
        "opinion": ("leave_one_out", -2.0),
    }
    np.testing.assert_allclose(found[TOTAL].values, 0.5 * found[reward.name].values - 2 * found["opinion"].values)
    scores = evaluate_reward(both, [text.prompt], [text.completion], {})
    assert found[TOTAL].score == pytest.approx(scores.totals[0], abs=1e-4)
    _, left_out, _ = attribute(both, text, "leave_one_out")
    assert {*left_out} == {TOTAL, reward.name, "opinion"}
    assert left_out[TOTAL].score == pytest.approx(scores.totals[0])


def test_what_a_reward_cannot_score_is_not_known_and_told() -> None:
    def last(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        return [float(prompt.split()[-1] == "a") for prompt in prompts]

    found = explain_reward(last, "a", " b c")
    assert np.isnan(found.total.values).tolist() == [True, False, False]
    assert found.to_dict()["components"][TOTAL]["values"] == [None, 0.0, 0.0]
    assert found.notes == [
        "the reward fails without some tokens, whose values are not known (IndexError: list index out of range)"
    ]
    assert "cannot score an empty text" in as_page(found)


def test_what_has_no_gradient_is_refused_by_name(reward: RewardModel) -> None:
    with pytest.raises(ValueError, match=r"'opinion' has no part with a gradient.*leave_one_out"):
        explain_reward(opinion, "good", method="integrated_gradients")
    product = reward * FunctionReward(opinion)
    with pytest.raises(ValueError, match="no weighted sum"):
        attribute(product, Text("", "good"), "integrated_gradients")
    assert attribute(product, Text("", "good"))[1][TOTAL].method == "leave_one_out"
    with pytest.raises(ValueError, match="method='shap'"):
        explain_reward(opinion, "good", method="shap")  # type: ignore[arg-type]


def test_a_reward_that_asks_people_is_refused() -> None:
    class Asks(RewardModel):
        pass

    Asks.__module__ = "rlhf_envs.rewards.human.reward"
    with pytest.raises(ValueError, match="asks people"):
        explain_reward(2 * Asks.__new__(Asks), "good")
    asks = Asks.__new__(Asks)
    asks.name = "asks"
    with pytest.raises(ValueError, match="'asks' asks people"):  # before a completion is written and scored
        explain("tiny", "The film", env_kwargs={"reward_fn": asks})


@pytest.mark.parametrize("method", ["integrated_gradients", "leave_one_out"])
@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("The film", ""),
        ("", " good"),
        ("فيلم رائعٌ", " جدًّا"),  # right to left, with marks
        ("这部电影", "很好看。"),
        ("fun", " 👩‍🔬👍🏽 e\u0301"),
        ("a <|eos|> b", " <|eos|>"),
        ("\u202eevil", "\n\n"),
    ],
)
def test_the_units_are_the_whole_text_in_every_script(
    reward: RewardModel, prompt: str, completion: str, method: Any
) -> None:
    if method == "integrated_gradients":
        pytest.importorskip("captum")
    found = explain_reward(reward, prompt, completion, method)
    for part, text in (("prompt", prompt), ("completion", completion)):
        assert "".join(unit.text for unit in found.units if unit.part == part) == text
    assert np.isfinite(found.total.values).all()
    if method == "integrated_gradients":
        assert abs(found.total.delta) < 2e-3
    assert found.total.score == pytest.approx(reward.score([prompt], [completion])[0], abs=1e-3)


def test_no_unit_begins_within_a_character() -> None:
    text = "e\u0301👩‍🔬👍🏽好"
    assert [unit.text for unit in cut_at("prompt", text, range(len(text)))] == ["e\u0301", "👩‍🔬", "👍🏽", "好"]
    assert word_starts("  a 好的b") == [0, 3, 5, 6]


def test_values_go_to_the_units_that_tokens_overlap() -> None:
    units = cut_at("completion", "abcd", [2])
    values, rest = spread(np.array([1.0, 3.0, 5.0]), [(0, 1), (1, 4), None], units, {"prompt": -1, "completion": 0})
    np.testing.assert_allclose(values, [2.0, 2.0])
    assert rest == 5.0


@pytest.mark.usefixtures("captum")
def test_what_a_model_does_not_read_earns_nothing_and_is_told(reward: RewardModel) -> None:
    short = copy.copy(reward)
    short.model = copy.deepcopy(reward.model)
    short.model.config.reward_max_length = 4
    found = explain_reward(short, "wonderful and very good", " but boring")
    assert found.notes
    assert found.notes[0].startswith("the reward model reads the last 4 tokens: the first 13 characters")
    unread = [value for unit, value in zip(found.units, found.total.values, strict=True) if unit.end <= 13]
    assert found.units[0].text == "wonderful"
    assert not any(unread[:2])
    assert found.total.score == pytest.approx(short.score(["wonderful and very good"], [" but boring"])[0], abs=1e-3)


@pytest.mark.parametrize("method", ["integrated_gradients", "leave_one_out"])
def test_deleting_named_tokens_costs_more_than_deleting_others(reward: RewardModel, method: Any) -> None:
    if method == "integrated_gradients":
        pytest.importorskip("captum")
    kinds = ("wonderful", "brilliant", "funny", "touching", "beautiful", "great", "moving", "superb")
    texts = [Text("The film", f" was {kind}, though the second half was rather long.") for kind in kinds]
    found = deletion_test(reward, texts, method, share=0.1, draws=4)
    assert found.errors > 3
    blind = deletion_test(FunctionReward(lambda prompts, **_: [0.0] * len(prompts), "flat"), texts, "leave_one_out")
    assert not blind.gain.mean
    assert blind.errors == 0


def test_steps_are_the_log_ratios_and_the_kl_of_both_models() -> None:
    model, other = load_causal_lm("tiny"), load_causal_lm("tiny")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.02)
    found = explain(model, "The film", " was good", "leave_one_out", reference=other, top=3, temperature=0.5)
    assert [step.token for step in found.steps] == [" was", " good"]
    tokenizer = get_reward("tiny-reward").tokenizer  # type: ignore[attr-defined]
    ids = torch.tensor([tokenizer("The film was good", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        own, reference = ((one(ids).logits[0].double() / 0.5).log_softmax(-1) for one in (model, other))
    for step, place in zip(found.steps, (len(ids[0]) - 3, len(ids[0]) - 2), strict=True):
        p, q = own[place], reference[place]
        assert step.log_prob == pytest.approx(float(p[step.token_id]), abs=1e-4)
        assert step.log_ratio == pytest.approx(float(p[step.token_id] - q[step.token_id]), abs=1e-4)
        assert step.kl == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-4)
        assert step.kl
        best = p.exp().topk(3)
        assert [one.token_id for one in step.alternatives] == best.indices.tolist()
        np.testing.assert_allclose([one.probability for one in step.alternatives], best.values, atol=1e-4)


def test_a_completion_longer_than_the_policy_is_compared_as_far_as_it_goes() -> None:
    model = load_causal_lm("tiny")
    model.config.max_position_embeddings = 40
    own: dict[str, Any] = {"env_kwargs": {"reward_fn": opinion}, "max_new_tokens": 2}
    found = explain(model, "The film", " and" * 60, "leave_one_out", **own)
    assert 30 < len(found.steps) < 40
    assert found.notes == [f"the policy has 40 positions: the last {60 - len(found.steps)} tokens are not compared"]
    assert explain(model, "The film", "", "leave_one_out", **own).steps == []


def test_the_page_escapes_every_text_and_tells_signs_without_colour() -> None:
    found = explain_reward(opinion, "<script>alert(1)</script> good", ' bad \u202e"')
    page = as_page(found)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page
    assert "http" not in page
    assert '<span class="up"' in page
    assert '<span class="down"' in page
    assert "wavy" in page


@pytest.mark.usefixtures("captum")
def test_a_cost_is_explained_as_the_probability_that_it_is(reward: RewardModel) -> None:
    cost = copy.copy(reward)
    cost.link = SIGMOID
    found = explain_reward(cost, REVIEW)
    assert found.total.score == pytest.approx(cost.score([""], [REVIEW])[0], abs=1e-4)
    assert 0 < found.total.baseline < 1
    assert abs(found.total.delta) < 2e-3


@pytest.mark.usefixtures("captum")
def test_an_ensemble_is_explained_by_the_mean_of_its_members(reward: RewardModel) -> None:
    second = copy.deepcopy(reward.model)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(0.9)
    networks = [copy.deepcopy(reward.model), second]
    ensemble = RewardEnsemble.from_networks(networks, reward.tokenizer, [" good film", " a bad film", REVIEW])
    found = explain_reward(ensemble, "a film", " so good")
    assert found.total.method == "integrated_gradients"
    assert found.total.score == pytest.approx(ensemble.score(["a film"], [" so good"])[0], abs=1e-3)
    assert abs(found.total.delta) < 5e-3
