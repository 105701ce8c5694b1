"""One suite over every registered algorithm: what users rely on, whichever they take."""

from __future__ import annotations

from typing import Any

import pytest

import agents
from agents.registry import _ALGORITHMS
from agents.testing import check_algorithm

# What an algorithm cannot do without, or is quick with.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "ppo_lagrangian": dict(cost="repetition", cost_limit=0.1),
    "dqn": dict(learning_starts=24, train_freq=3, batch_size=24),
    "qrdqn": dict(learning_starts=24, train_freq=3, batch_size=24),
    "ilql": dict(train_freq=3, gradient_steps=2, batch_size=24),
    "random": dict(learns=False),
    "best_of_n": dict(learns=False),
}


@pytest.mark.parametrize("name", sorted(_ALGORITHMS))
def test_every_algorithm_saves_resumes_and_repeats_itself(name):
    check_algorithm(name, **ARGUMENTS.get(name, {}))


@pytest.mark.parametrize("name", sorted(_ALGORITHMS))
def test_every_algorithm_opens_with_its_paper(name):
    import sys

    doc = sys.modules[agents.get_algorithm(name).__module__].__doc__
    assert "Paper" in doc or name in ("random",), "the docstring opens with the paper and what differs from it"


def test_the_check_notices_an_algorithm_that_forgets(monkeypatch):
    """Its own test: an algorithm whose saved state lacks something is not let through."""
    from agents.algorithms.common.episode_buffer import EpisodeRolloutBuffer

    monkeypatch.setattr(EpisodeRolloutBuffer, "set_state", lambda self, state: None)
    with pytest.raises(AssertionError, match="a loaded agent learns on differently"):
        check_algorithm("rloo", n_steps=2)
