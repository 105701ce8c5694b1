"""Generate the cases of the customer service: who wants what, what the shop knows, and what the policy asks for."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from itertools import product
from typing import Any

from rlhf_envs.datasets import check_split
from rlhf_envs.tasks.customer_service.phrases import GOALS, ITEMS, NAMES, OPENINGS, VOICES

__all__ = ["ACTIONS", "COLUMNS", "OBSTACLES", "complete_case", "generate_cases", "read_case", "right_action"]

ACTIONS = ("refund", "replace", "decline", "escalate")
OBSTACLES = ("worried", "curious", "chatty")
COLUMNS = ("goal", "number", "name", "holder", "days", "price", "stock")  # what a case of one's own needs
ALLOWED = {
    "goal": GOALS,
    "missing": ("", "number", "name"),
    "obstacle": ("", *OBSTACLES),
    "voice": tuple(VOICES),
}
TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
SIZES = {"train": 2000, "validation": 300, "test": 600}
HIGH_PRICE, RETURN_DAYS, WAIT_DAYS = 500, 30, 10
SHARES = {"train": (0.0, 0.7), "validation": (0.7, 0.8), "test": (0.8, 1.0)}  # of the scenarios


def right_action(goal: str, name_is_right: bool, days: int, price: int, in_stock: bool) -> str:
    """Return the action that the policy asks for, see policy.md."""
    if goal == "person":
        return "escalate"
    if not name_is_right:
        return "decline"
    owed = days > WAIT_DAYS if goal == "late" else days <= RETURN_DAYS
    if not owed:
        return "decline"
    if price >= HIGH_PRICE:
        return "escalate"
    return "refund" if goal == "unwanted" or not in_stock else "replace"


def generate_cases(split: str) -> list[dict[str, Any]]:
    """Return the cases of a split, always the same.

    A scenario is a combination of goal, name, days, price, stock, missing fact and obstacle. Each belongs to one split,
    and each split has sentences of its own, so that the test cases are new in both.

    Raises:
        ValueError: there is no such split.
    """
    name = check_split(split, "customer-service")
    rng = random.Random(f"customer service {name}")
    groups = _scenarios(name)
    cases: list[dict[str, Any]] = []
    openings: set[str] = set()
    while len(cases) < SIZES[name]:
        action = ACTIONS[len(cases) % len(ACTIONS)]
        case = _fill(rng.choice(groups[rng.choice([group for group in groups if group[0] == action])]), name, rng)
        if (opening := case["prompt"][0]["content"]) not in openings:
            openings.add(opening)
            cases.append(complete_case(case))
    return cases


def _scenarios(split: str) -> dict[tuple[str, str, bool], list[dict[str, Any]]]:
    """Return the scenarios that belong to a split, by action, goal and whether the name is right.

    Of each of these groups the scenarios are ordered by a hash, and dealt to the splits in `SHARES`.
    """
    groups: dict[tuple[str, str, bool], list[dict[str, Any]]] = {}
    hindered = [("", ""), *product(("number",), ("", "worried", "chatty")), *product(("name",), ("", *OBSTACLES))]
    bands = ((2, 10), (11, 20), (21, 30), (31, 45), (46, 60))
    for goal, right, days, dear, stock, (missing, obstacle) in product(
        GOALS, (True, False), bands, (False, True), (True, False), hindered
    ):
        scenario = {"goal": goal, "right": right, "days": days, "dear": dear, "stock": stock}
        scenario |= {"missing": missing, "obstacle": obstacle}
        action = right_action(goal, right, days[0], HIGH_PRICE if dear else 0, stock)
        groups.setdefault((action, goal, right), []).append(scenario)
    dealt = {}
    for group, found in groups.items():
        found.sort(key=lambda scenario: hashlib.sha256(repr(sorted(scenario.items())).encode()).digest())
        start, end = (round(share * len(found)) for share in SHARES[split])
        dealt[group] = found[start:end]
    return dealt


def _fill(scenario: Mapping[str, Any], split: str, rng: random.Random) -> dict[str, Any]:
    """Return a case of a scenario, in the words of its split."""
    name = rng.choice(NAMES)
    holder = name if scenario["right"] else rng.choice([other for other in NAMES if other != name])
    case = {
        "goal": scenario["goal"],
        "number": rng.randint(10, 99),
        "name": name,
        "holder": holder,
        "days": rng.randint(*scenario["days"]),
        "price": rng.randrange(510, 1000, 10) if scenario["dear"] else rng.randrange(10, 100, 10),
        "stock": scenario["stock"],
        "missing": scenario["missing"],
        "obstacle": scenario["obstacle"],
        "patience": rng.randint(2, 4),
        "voice": split,
    }
    wish = rng.choice(OPENINGS[case["goal"]][split]).format(item=rng.choice(ITEMS[split]))
    facts = rng.choice(VOICES[split].facts[case["missing"]]).format(**case)
    order = [wish, facts] if rng.random() < 0.7 else [facts, wish]
    return {"prompt": [{"role": "user", "content": " ".join(order)}], **case}


def complete_case(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return a case with what it leaves to defaults, and the right `action`."""
    full = {"missing": "", "obstacle": "", "patience": 3, "voice": "train", **case}
    right = full["name"] == full["holder"]
    action = right_action(full["goal"], right, full["days"], full["price"], full["stock"])
    return {**full, "action": action}


def read_case(case: Mapping[str, Any], number: int, task: str) -> dict[str, Any]:
    """Return a user's case, with numbers and yes or no as values where a table has them as text.

    Raises:
        ValueError: a column is missing or has a wrong value. The message names the row and what is allowed.
    """
    where = f"task {task!r}: row {number}"
    if missing := [column for column in COLUMNS if column not in case]:
        raise ValueError(
            f"{where} has no column {missing[0]!r}: it has {', '.join(map(repr, case))}; a case needs "
            f"{', '.join(map(repr, COLUMNS))} beside 'prompt'"
        )
    read = {column: value for column, value in case.items() if value is not None}
    for column, values in ALLOWED.items():
        if column in case and (read.get(column, "") not in values):
            raise ValueError(f"{where}: {column} is {case[column]!r}; it can be {', '.join(map(repr, values))}")
    for column in ("number", "days", "price", "patience"):
        if column in case:
            read[column] = _whole_number(case[column], f"{where}: {column}")
    if str(read.get("stock")).casefold() not in TRUTHS:
        raise ValueError(f"{where}: stock is {case['stock']!r}; it can be true or false")
    read["stock"] = TRUTHS[str(read["stock"]).casefold()]
    for column in ("name", "holder"):
        if not isinstance(case[column], str) or len(case[column].split()) != 1:
            raise ValueError(f"{where}: {column} is {case[column]!r}; it must be one word")
    return read


def _whole_number(value: Any, what: str) -> int:
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(f"{what} is {value!r}; it must be a whole number of at least 0")
    return number
