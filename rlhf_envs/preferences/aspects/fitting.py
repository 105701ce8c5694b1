"""Fit one reward model per aspect of an answer (helpful, true, harmless), and say how far the aspects go together."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rlhf_envs.files import atomic_folder, is_replaceable
from rlhf_envs.rewards.aspects import FACTORS, FILE, Aspect, read_aspects
from rlhf_envs.rewards.reward_model import RewardModel

from ..fitting import Metrics, as_texts, fit_reward
from ..splitting import Split, split_rows, whole_texts
from ..training import NothingToFit
from .rows import Judged, key_and_value, weigh_annotators

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..training import TrainingOptions

__all__ = ["LIMIT", "AspectReport", "Correlation", "aspects_as_yaml", "fit_aspects"]

Row = Mapping[str, Any]
LIMIT = 0.1  # of a cost, until somebody writes another into the file
MIN_SHARED = 10  # texts that two aspects share before their correlation is told
MAX_SCORED = 500  # texts


class Correlation(NamedTuple):
    """Hold how far two aspects go together; None where too few texts have both, or one does not vary."""

    first: str
    second: str
    people: float | None  # Pearson's, of the means of what people said about the same texts
    models: float | None  # of the scores of the same held-out texts


class AspectReport(NamedTuple):
    """Hold the metrics of each aspect's reward model, the correlations, and the weights of annotators by aspect.

    `kept` are the aspects of the folder's older file that were not fitted now.
    """

    metrics: dict[str, Metrics]
    correlations: list[Correlation]
    weights: dict[str, dict[str, float]]
    warning: str | None = None
    kept: Sequence[str] = ()


def fit_aspects(
    judged: Sequence[Judged],
    folder: str | Path,
    *,
    model: str = "tiny",
    weigh: bool = True,
    held_out_share: float = 0.1,
    calibrate: bool = True,
    max_length: int | None = None,
    device: str = "cpu",
    made: Mapping[str, Any] | None = None,
    beside: Mapping[str, Aspect] | None = None,
    references: Sequence[str] | None = None,
    **options: Unpack[TrainingOptions],
) -> AspectReport:
    """Fit one reward model per aspect, and write them into a folder, with the file of aspects, in one atomic step.

    One split serves all aspects: a text that is held out of one is fitted by none. All scores have mean 0 and standard
    deviation 1 over the same texts, except of costs, which are probabilities, so that weights can be compared. The file
    keeps the weight or limit that an aspect has, or has in the folder's older file; else a score gets the weight 1 and
    a cost the limit 0.1. Aspects of the older file that are not fitted now stay in it, with their models.

    Args:
        judged: see `judged_aspects`.
        folder: where to write; the reward model of an aspect is in the folder of its name.
        weigh: whether judgements count by how reliable their annotator is about that aspect, see `weigh_annotators`.
        model, held_out_share, calibrate, max_length, device, made: see `fit_reward`.
        beside: aspects with a `reward` of their own, which are written into the file and not fitted.
        references: texts over which the scores get mean 0 and standard deviation 1. By default the texts of the
            held-out rows and then of the fitted rows, the first 1,000.
        **options: see `rlhf_envs.preferences.training.optimise`.

    Raises:
        NothingToFit: a ValueError: an aspect's rows tell nothing apart, or none of them can be held out.
        FileExistsError: the folder holds something else.
    """
    folder = Path(folder)
    if not is_replaceable(folder):
        raise FileExistsError(f"{folder} exists and is no folder of aspects: choose another name, or move it away")
    older = read_aspects(folder, to_fit=True) if (folder / FILE).is_file() else {}
    judged = _with_known_factors(judged, older)
    fitted_names = {one.aspect.name for one in judged}
    kept = {name: aspect for name, aspect in (older | dict(beside or {})).items() if name not in fitted_names}
    rows, weights = {}, {}
    for one in judged:
        texts: Sequence[Row] = as_texts(one.rows, model)
        rows[one.aspect.name], weights[one.aspect.name] = (
            weigh_annotators(texts) if weigh else ([dict(row) for row in texts], {})
        )
    split = split_rows([row for own in rows.values() for row in own], held_out_share, options.get("seed", 0))
    settings: dict[str, Any] = dict(model=model, calibrate=calibrate, max_length=max_length, device=device, made=made)
    settings |= options | {"references": split.references() if references is None else references}
    parts = {name: _part(name, own, split) for name, own in rows.items()}
    metrics: dict[str, Metrics] = {}
    record = {} if made is None else {"made": made}
    figures: dict[str, Any] = {"aspects": metrics, "weights": weights}
    with atomic_folder(folder, kind="aspects", figures=figures, **record) as place:
        for one in judged:
            name = one.aspect.name
            fitted, held_out = parts[name]
            try:
                found = fit_reward(fitted, place / name, loss=one.loss, held_out=held_out, **settings)
            except NothingToFit as error:
                raise NothingToFit(f"aspect {name!r}: {error}") from error
            metrics[name] = found.metrics
        correlations = _correlations(rows, split, place, device)
        figures["correlations"] = [one._asdict() for one in correlations]
        for name in kept:
            if (folder / name).is_dir():
                shutil.copytree(folder / name, place / name)
        (place / FILE).write_text(aspects_as_yaml([*(one.aspect for one in judged), *kept.values()]), encoding="utf-8")
    return AspectReport(metrics, correlations, weights, split.warning, [name for name in kept if name in older])


def _with_known_factors(judged: Sequence[Judged], older: Mapping[str, Aspect]) -> list[Judged]:
    """Return the judged aspects with a weight or a limit each: their own, the older file's, or the usual one."""
    found = []
    for one in judged:
        aspect, before = one.aspect, older.get(one.aspect.name)
        if all(getattr(aspect, name) is None for name in FACTORS):
            kept = {name: getattr(before, name) for name in FACTORS} if before is not None else {}
            usual = {"limit": LIMIT} if one.loss == "flags" else {"weight": 1.0}
            factors = kept if any(value is not None for value in kept.values()) else usual
            aspect = replace(aspect, **factors)
        found.append(replace(one, aspect=aspect))
    return found


def _part(name: str, own: Sequence[Row], split: Split) -> tuple[list[Row], list[Row]]:
    """Return the rows of an aspect that are fitted, and those that are held out."""
    ids = {id(row) for row in own}
    fitted, held_out = ([row for row in rows if id(row) in ids] for rows in (split.fitted, split.held_out))
    if not fitted or not held_out:
        what = "fit" if not fitted else "hold out"
        raise NothingToFit(
            f"aspect {name!r}: none of its {len(own)} rows is among those to {what}, since texts are held out of all "
            "aspects together: collect more, or fit it by itself with --criterion"
        )
    return fitted, held_out


def _correlations(rows: Mapping[str, Sequence[Row]], split: Split, place: Path, device: str) -> list[Correlation]:
    """Return how far each two aspects go together, for people and for the reward models."""
    said: dict[str, dict[tuple[str, ...], float]] = {}
    for name, own in rows.items():
        values: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for row in own:
            key, value = key_and_value(row)
            values[key].append(value)
        said[name] = {key: float(np.mean(value)) for key, value in values.items()}
    texts = [*dict.fromkeys(text for row in split.held_out for text in whole_texts(row))][:MAX_SCORED]
    scores = {name: RewardModel(str(place / name), device=device).score([""] * len(texts), texts) for name in rows}
    found = []
    for first, second in combinations(rows, 2):
        both = [key for key in said[first] if key in said[second]]
        people = [[said[name][key] for key in both] for name in (first, second)]
        found.append(Correlation(first, second, _correlation(*people), _correlation(scores[first], scores[second])))
    return found


def _correlation(one: Any, other: Any) -> float | None:
    """Return Pearson's correlation; None of fewer than 10 numbers, or where one side does not vary."""
    if len(one) < MIN_SHARED or not (np.std(one) > 0 and np.std(other) > 0):
        return None
    return float(np.corrcoef(one, other)[0, 1])


def aspects_as_yaml(aspects: Iterable[Aspect]) -> str:
    """Return the file of aspects."""
    lines = [
        "# Each aspect has a weight, a limit (the highest mean of a cost) or at_least (the lowest mean of a score).",
        "# Change them here; its reward model is in the folder of its name.",
    ]
    for aspect in aspects:
        keys = [*FACTORS, "reward", "criterion", "harm", "loss", "data"]
        given = {key: value for key in keys if (value := getattr(aspect, key)) is not None}
        texts = {key: f"{value:.12g}" if key in FACTORS else _quoted(value) for key, value in given.items()}
        shown = ", ".join(f"{key}: {text}" for key, text in texts.items())
        name = _quoted(aspect.name) if aspect.name.lower() in ("true", "false", "null") else aspect.name
        lines.append(f"{name}: {{{shown}}}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a text as a YAML string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
