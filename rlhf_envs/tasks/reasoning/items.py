"""Draw the questions of reasoning-gym: which split and level each belongs to, and the entry that a row was made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rlhf_envs.datasets.splits import hash_share, log_once, prompt_key
from rlhf_envs.names import nearest

__all__ = ["WRONG_KEYS", "check_dataset", "draw_rows", "find_entry", "get_dataset", "top_level"]

CHUNK = 256  # questions per dataset object; some read a corpus when they are made
SPAN = 10**7  # seeds per split
SEEDS = {"train": 0, "validation": SPAN, "test": 2 * SPAN}
HELD_OUT = {"test": 0.1, "validation": 0.2}  # upper ends of the hashes of a split's questions; "train" has the rest
TRIES = 20  # how many times the wanted number of questions is drawn before the space counts as exhausted
# In reasoning-gym 0.1.25 "What is Sarah to Elizabeth?" has the answer "mother-in-law" where Sarah is the
# daughter-in-law (findings/reasoning_gym_reverses_in_laws.sh): such questions are left out.
WRONG_KEYS: Mapping[str, tuple[str, ...]] = {"family_relationships": ("mother-in-law", "father-in-law")}


def package() -> Any:
    """Return the module `reasoning_gym.factory`.

    Raises:
        ModuleNotFoundError: the package, or one that it needs, is missing.
    """
    try:
        from reasoning_gym import factory
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"rlhf/ReasoningGym-v0 needs reasoning-gym ({error}) for anything but its default questions: "
            "pip install 'rlhf-envs[reasoning]'"
        ) from error
    return factory


def check_dataset(name: str) -> None:
    """Raise a ValueError, which names the nearest, if the package has no dataset of this name."""
    if not isinstance(name, str) or name not in package().DATASETS:
        raise ValueError(f"dataset={name!r}: {nearest(str(name), sorted(package().DATASETS))}")


def top_level(name: str) -> int:
    """Return the highest level of a dataset's curriculum in the package; 0 if it has none."""
    curriculum = package().CURRICULA.get(name)
    return max((len(one.levels) - 1 for one in curriculum().attributes.values()), default=0) if curriculum else 0


def level_config(name: str, level: int | None) -> dict[str, Any]:
    """Return the configuration of a level: of attributes with a range the range of this level alone."""
    curriculum = package().CURRICULA.get(name)
    if level is None or curriculum is None:
        return {}
    from reasoning_gym.coaching.base_curriculum import DefaultCurriculumContext, RangeAttributeMode

    made = curriculum()
    made.set_global_level(level)
    found = vars(made.generate_configuration(None, DefaultCurriculumContext(RangeAttributeMode.UPPER_BOUND)))
    return {key: value for key, value in found.items() if key not in ("seed", "size")}


@lru_cache(maxsize=64)
def _dataset(name: str, level: int | None, config: str, seed: int) -> Any:
    given = json.loads(config)
    try:
        return package().create_dataset(name, seed=seed, size=CHUNK, **{**level_config(name, level), **given})
    except (AssertionError, TypeError, ValueError) as error:
        where = f"dataset={name!r}, difficulty={level}, config={given!r}"
        raise ValueError(f"reasoning-gym refuses {where}: {type(error).__name__}: {error}") from error


def get_dataset(name: str, level: int | None, config: Mapping[str, Any], item: str) -> Any:
    """Return the package's dataset that an item is of."""
    return _dataset(name, level, json.dumps(config, sort_keys=True), int(item.partition(":")[0]))


def find_entry(name: str, level: int | None, config: Mapping[str, Any], item: str) -> dict[str, Any]:
    """Return the entry of an item, "seed:index", with what the package's verifier needs."""
    return _entry(name, level, json.dumps(config, sort_keys=True), item)


@lru_cache(maxsize=8192)
def _entry(name: str, level: int | None, config: str, item: str) -> dict[str, Any]:
    seed, _, index = item.partition(":")
    return dict(_dataset(name, level, config, int(seed))[int(index)])


def split_of(question: str) -> str:
    """Return the split that a question belongs to, by a hash: equal questions are on one side, whatever their seed."""
    share = hash_share(prompt_key(question))
    return next((split for split, end in HELD_OUT.items() if share < end), "train")


def draw_rows(name: str, level: int | None, config: Mapping[str, Any], split: str, n: int) -> list[dict[str, Any]]:
    """Return up to n different questions of a split, each with its `answer`, `dataset`, `level` and `item`.

    The splits have seeds of their own, and of what these give only the questions whose hash is in the split.

    Raises:
        ModuleNotFoundError: reasoning-gym is missing.
        ValueError: the package refuses the configuration, or has no question for this split.
    """
    rows: dict[str, dict[str, Any]] = {}
    drawn, seed, wrong = 0, SEEDS[split], WRONG_KEYS.get(name, ())
    limit = TRIES * n * (10 if split != "train" else 1)
    while len(rows) < n and drawn < limit:
        for index in range(CHUNK):
            item = f"{seed}:{index}"
            entry = find_entry(name, level, config, item)
            question, answer = str(entry["question"]).strip(), entry["answer"]
            if split_of(question) == split and answer not in wrong:
                about = {"answer": None if answer is None else str(answer), "dataset": name, "level": level}
                rows.setdefault(question, {"question": question, **about, "item": item})
            if len(rows) == n:
                break
        drawn, seed = drawn + CHUNK, seed + CHUNK
    if not rows:
        raise ValueError(f"dataset={name!r}, difficulty={level}: none of {drawn:,} questions is in the split {split!r}")
    if len(rows) < n:
        log_once(30, f"dataset {name!r}, difficulty {level}: {len(rows)} different questions of {split!r}, not {n}")
    return [*rows.values()]
