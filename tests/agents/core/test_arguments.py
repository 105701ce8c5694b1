"""Values are checked against annotations, and docstrings of two forms are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest

from agents.core.arguments import argument_texts, check_value, type_name
from agents.registry import available, check_arguments, describe, get_algorithm

SCHEDULE = float | Callable[[float], float]


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("n", 3, int),
        ("x", 3, float),
        ("x", None, float | None),
        ("x", lambda _: 0.1, SCHEDULE),
        ("x", object(), int),  # an object is not checked
        ("x", "text", dict[str, Any] | str),
        ("x", [1, "a"], tuple[int, str]),
        ("kind", "k1", Literal["k1", "k3"]),
        ("gamma", 1.0, float),
    ],
)
def test_a_fitting_value_passes(name: str, value: Any, hint: Any) -> None:
    check_value(name, value, hint)


@pytest.mark.parametrize(
    ("name", "value", "hint", "message"),
    [
        ("n", "three", int, "n='three': expected a whole number"),
        ("n", 2.5, int, "n=2.5: expected a whole number"),
        ("n", True, int, "n=True: expected a whole number"),
        ("x", "big", SCHEDULE, "x='big': expected a number"),
        ("x", None, bool, "x=None: expected true or false"),
        ("x", "many", int | None, "x='many': expected a whole number or null"),
        ("kind", "k2", Literal["k1", "k3"], "kind='k2': expected 'k1' or 'k3'"),
        ("gamma", 1.5, float, "gamma=1.5: expected a number from 0 to 1"),
        ("n_steps", 0, int, "n_steps=0: expected a number of at least 1"),
    ],
)
def test_another_value_is_named_with_what_is_expected(name: str, value: Any, hint: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        check_value(name, value, hint)


@pytest.mark.parametrize("algo", ["ppo", "a2c", "rloo", "dqn", "sft"])
def test_the_defaults_of_an_algorithm_fit_their_own_annotations(algo: str) -> None:
    description = describe(get_algorithm(algo))
    check_arguments(algo, {name: value for name, value in description.defaults.items() if name in description.known})


@pytest.mark.parametrize("algo", sorted(available()))
def test_the_types_of_nearly_all_arguments_are_known(algo: str) -> None:
    description = describe(get_algorithm(algo))
    assert not description.known - description.hints.keys() - {"args", "kwargs"}


def test_docstrings_of_google_and_sphinx_are_read() -> None:
    class Base:
        """Do something.

        :param width: how wide,
            in metres
        :param depth: of the base
        """

    class Derived(Base):
        """Do more.

        Args:
            depth: how deep, and
                what for.
            **others: not an argument.

        Raises:
            ValueError: never.
        """

    assert argument_texts(Derived) == {"width": "how wide, in metres", "depth": "how deep, and what for."}
    assert type_name(int | None) == "a whole number or null"
