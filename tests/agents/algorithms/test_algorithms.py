"""One suite over every registered algorithm: what users rely on, whichever they take."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import pytest

import agents
from agents.algorithms import EpisodeRolloutBuffer
from agents.registry import _ALGORITHMS, PARTS, describe
from agents.testing import check_algorithm

ONE_ROLLOUT = dict(n_steps=12)  # for four episodes per environment
FEW_EPOCHS = dict(ONE_ROLLOUT, n_epochs=2)
BANDIT_PAIRS = [dict(prompt=p, chosen=f"{p} {q}", rejected=q) for p in "abcd" for q in "cde"]
BANDIT_LABELS = [dict(prompt=r["prompt"], completion=r["chosen"], label=i % 2 == 0) for i, r in enumerate(BANDIT_PAIRS)]
# What an algorithm cannot do without, or is quick with.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "a2c": ONE_ROLLOUT,
    "trpo": ONE_ROLLOUT,
    "ppo": FEW_EPOCHS,
    "nlpo": FEW_EPOCHS,
    "maskable_ppo": FEW_EPOCHS,
    "ppo_lagrangian": dict(FEW_EPOCHS, cost="repetition", cost_limit=0.1),
    "dqn": dict(learning_starts=24, train_freq=3, batch_size=24),
    "qrdqn": dict(learning_starts=24, train_freq=3, batch_size=24),
    "ilql": dict(train_freq=3, gradient_steps=2, batch_size=24),
    "dpo": dict(ONE_ROLLOUT, data=BANDIT_PAIRS),
    "kto": dict(ONE_ROLLOUT, data=BANDIT_LABELS),
    "random": dict(learns=False),
    "best_of_n": dict(learns=False),
}


# Arguments that say nothing about how an algorithm learns.
PASSED_ON = {
    *(
        "_init_setup_model",
        "device",
        "engine",
        "engine_kwargs",
        "seed",
        "stats_window_size",
        "tensorboard_log",
        "verbose",
    ),
    *("sde_sample_freq", "sde_support", "support_multi_env", "supported_action_spaces", "use_sde"),
}


@pytest.mark.parametrize("name", sorted(_ALGORITHMS))
def test_every_algorithm_saves_resumes_and_repeats_itself(name, any_device):
    arguments = ARGUMENTS.get(name, {})
    assert len(check_algorithm(name, device=any_device, **arguments)) == (12 if arguments.get("learns", True) else 11)


@pytest.mark.parametrize("name", sorted(_ALGORITHMS))
def test_every_algorithm_opens_with_its_paper(name):
    """Authors, year and an address or a title; then what differs, when to use it and the defaults, in this order."""
    summary, paper, *rest = inspect.getdoc(agents.get_algorithm(name)).split("\n\n")
    assert "\n" not in summary
    if name == "random":
        assert paper.startswith("No paper: ")
    else:
        assert re.match(r"Papers?: .*?[A-Z][a-z]+( et al\.| and [A-Z][a-z]+)? (19|20)\d\d, ", paper, re.DOTALL)
        assert re.search(r"https://\S+\w|\"[A-Z][^\"]{10,}\"", paper)
        assert any(paragraph.startswith("Departures:") for paragraph in rest)
    paragraphs = [paragraph.partition(":")[0] for paragraph in rest]
    assert paragraphs.index("When to use it") < paragraphs.index("Defaults")


@pytest.mark.parametrize("name", sorted(_ALGORITHMS))
def test_every_algorithm_and_its_policy_take_first_what_sb3s_take_first(name):
    cls = agents.get_algorithm(name)
    assert list(inspect.signature(cls).parameters)[:3] == ["policy", "env", "learning_rate"]
    policy = describe(cls).parts["policy"]
    assert list(inspect.signature(policy.__init__).parameters)[1:4] == [
        "observation_space",
        "action_space",
        "lr_schedule",
    ]


def stated_defaults(cls: type[Any]) -> dict[str, Any]:
    """The defaults that the docstring of a class states, or takes from another class by "defaults are as in"."""
    text = re.search(r"^Defaults: .*?(?=\n\n|\Z)", inspect.getdoc(cls), re.DOTALL | re.MULTILINE).group()
    inherited = re.search(r"defaults\s+are\s+as\s+in\s+`(\w+)`", text)
    bases = {base.__name__: base for base in (agents.get_algorithm("dqn"), *cls.__mro__[:0:-1])}
    found = stated_defaults(bases[inherited.group(1)]) if inherited else {}
    return found | {name: ast.literal_eval(value) for name, value in re.findall(r"`(\w+)=([^`]+)`", text)}


@pytest.mark.parametrize("name", sorted(_ALGORITHMS))
def test_a_docstring_states_the_defaults_that_differ_from_sb3s(name):
    cls = agents.get_algorithm(name)
    ours = [base for base in cls.__mro__ if base.__module__.startswith("agents.")]
    set_by_us = {argument for base in ours for argument in (*signature(base), *vars(base).get("defaults", {}))}
    set_by_us -= {"policy", "env", *PARTS, *PARTS.values(), *PASSED_ON, *cls.unused}
    if not cls.trains:
        set_by_us -= {"learning_rate", "max_grad_norm"}
    stated, defaults = stated_defaults(cls), describe(cls).defaults
    assert stated.keys() - cls.unused.keys() == set_by_us & defaults.keys()
    assert stated == {argument: defaults[argument] for argument in stated}


def signature(base: type[Any]) -> list[str]:
    return list(inspect.signature(vars(base)["__init__"]).parameters) if "__init__" in vars(base) else []


def test_the_check_notices_an_algorithm_that_forgets(monkeypatch):
    """Its own test: an algorithm whose saved state lacks something is not let through."""
    monkeypatch.setattr(EpisodeRolloutBuffer, "set_state", lambda self, state: None)
    with pytest.raises(AssertionError, match="a loaded agent learns on differently"):
        check_algorithm("rloo", n_steps=2)
