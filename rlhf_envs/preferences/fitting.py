"""Reward models from files of judgements into folders, and their figures: what `rlhf reward` runs."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from rlhf_envs.files import atomic_folder, is_replaceable

if TYPE_CHECKING:
    from rlhf_envs.preferences.training import TrainingOptions

__all__ = ["HELD_OUT", "Figures", "Report", "eval_folder", "fit_folder", "load_judgements"]

Row = dict[str, Any]
Figures = dict[str, float | str]  # a text says why there is no number, or what to know about the others
HELD_OUT = "held_out.jsonl"  # in the folder of a fit
NUMBERS = ("margin", "probability", "weight", "label")
PAIR, RATING = ("chosen", "rejected"), ("completion", "label")
MAX_REFERENCES = 1000


class Report(NamedTuple):
    """Figures by name, and tables by title."""

    figures: dict[str, float]
    tables: dict[str, list[dict[str, float]]]


def load_judgements(path: str | Path, columns: Sequence[str] | None = None) -> list[Row]:
    """Load pairs or ratings; numbers that stand as text (in a CSV) become numbers, and empty ones are left out.

    Args:
        path: a file, see `rlhf_envs.datasets.load_rows`.
        columns: what the rows need; by default what makes them pairs or, where there is no "chosen", ratings.

    Raises:
        ValueError: the file or a row is malformed; the message has the file and the line.
    """
    from rlhf_envs.datasets import load_rows

    rows: list[Row] = [dict(row) for row in load_rows(path, required=())]
    needed = columns or (PAIR if "chosen" in rows[0] else RATING)
    for index, row in enumerate(rows):
        if missing := [name for name in needed if name not in row]:
            raise ValueError(f"{path}, row {index + 1}: no column {missing[0]!r} (it has: {', '.join(row)})")
        for name in NUMBERS:
            if isinstance(row.get(name), str):
                try:
                    row[name] = float(row[name]) if row[name].strip() else None
                except ValueError:
                    raise ValueError(f"{path}, row {index + 1}: {name} is {row[name]!r}, not a number") from None
    return rows


def fit_folder(
    pairs: str,
    output: str,
    *,
    model: str = "tiny",
    loss: str = "bt",
    members: int = 1,
    independent: bool = False,
    train: str = "full",
    epochs: int = 1,
    batch_size: int = 16,
    learning_rate: float | None = None,
    held_out: str | None = None,
    max_length: int | None = None,
    no_calibration: bool = False,
    seed: int = 0,
    device: str = "cpu",
    on_step: Callable[[int, int, float], None] | None = None,
) -> Figures:
    """Fit what `rlhf reward fit` describes, write it and the held-out rows in one atomic step, and return the figures.

    Raises:
        ValueError: the rows or the arguments are not fit for it; the message says which.
        FileExistsError: `output` holds something else than a reward model of ours.
    """
    if loss != "bt" and members > 1:
        raise ValueError(f"--members {members} --loss {loss}: an ensemble is fitted to pairs (--loss bt)")
    if not is_replaceable(Path(output)):
        raise FileExistsError(f"{output} exists and is no reward model of ours: choose another name, or move it away")
    needed = PAIR if loss == "bt" else RATING
    if held_out is None:
        rows, measured, notes = _split(load_judgements(pairs, needed), seed)
    else:
        rows, measured, notes = load_judgements(pairs, needed), load_judgements(held_out, needed), {}
    options: TrainingOptions = {
        "train": int(train) if train.isdigit() else train,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "on_step": on_step,
    }
    if members > 1:
        fit = _fit_ensemble(
            model, rows, measured, members, not independent, max_length, not no_calibration, device, options
        )
    else:
        fit = _fit_single(model, rows, measured, loss, max_length, not no_calibration, device, options)
    save, figures = fit
    figures |= notes
    given = {"model": model, "loss": loss, "members": members, "train": train, "epochs": epochs, "seed": seed}
    with atomic_folder(Path(output), kind="reward model", fit=given, figures=figures) as folder:
        save(folder)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in measured)
        (folder / HELD_OUT).write_text(lines, encoding="utf-8")
    return figures


def _split(rows: list[Row], seed: int) -> tuple[list[Row], list[Row], Figures]:
    """The rows to fit, about a tenth to measure on, so that no prompt and no text is in both, and a note if one is.

    Rows without a prompt hang together by the texts that they share. Where nearly all do, pairs are split instead.
    """
    if (split := _hold_out(_connected(rows), seed)) is not None:
        return *split, {}
    pairs: dict[object, list[Row]] = defaultdict(list)
    for row in rows:
        pairs[frozenset(_texts(row))].append(row)
    if (split := _hold_out(list(pairs.values()), seed)) is None:
        raise ValueError(f"{len(rows)} rows of the same texts: there is nothing to hold out, give rows with --held-out")
    note = "nearly all rows share prompts or texts, so some are in both parts: the figures flatter; give --held-out"
    return *split, {"warning": note}


def _hold_out(groups: list[list[Row]], seed: int) -> tuple[list[Row], list[Row]] | None:
    """The rows of most groups, and those of random ones that make about a tenth; None where it would be over half.

    A group of more than a tenth is held out only where the others are too few; then it is the smallest such one.
    """
    n_rows = sum(map(len, groups))
    n = max(1, round(n_rows / 10))
    shuffled = random.Random(seed).sample(groups, len(groups))
    fitted: list[Row] = []
    held_out: list[Row] = []
    for group in sorted(shuffled, key=lambda group: max(len(group), n)):
        fits = len(held_out) < n / 2 or len(held_out) + len(group) <= n
        (held_out if fits else fitted).extend(group)
    return (fitted, held_out) if len(held_out) <= n_rows / 2 else None


def _connected(rows: list[Row]) -> list[list[Row]]:
    """The rows in groups that share neither a prompt nor a whole text (a prompt with its completion); union-find."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        while (above := parent.setdefault(node, node)) != node:
            parent[node] = parent[above]  # halves the path for the next search
            node = above
        return node

    def nodes(row: Row) -> list[tuple[str, str]]:
        prompts = [("prompt", str(row["prompt"]))] if row.get("prompt") else []
        return prompts + [("text", text) for text in _texts(row)]

    for row in rows:
        first, *others = nodes(row)
        for node in others:
            parent[root(node)] = root(first)
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[root(nodes(row)[0])].append(row)
    return list(groups.values())


def _texts(row: Row) -> list[str]:
    return [str(row.get("prompt") or "") + str(row[name]) for name in (*PAIR, "completion") if name in row]


Saved = tuple[Callable[[Path], None], Figures]


def _fit_single(
    model: str,
    rows: list[Row],
    held_out: list[Row],
    loss: str,
    max_length: int | None,
    calibrated: bool,
    device: str,
    options: TrainingOptions,
) -> Saved:
    from rlhf_envs.models import no_progress_bars
    from rlhf_envs.preferences import calibration, load_backbone
    from rlhf_envs.preferences.bradley_terry import fit_bradley_terry, normalise, pair_texts
    from rlhf_envs.preferences.regression import fit_ratings

    network, tokenizer = load_backbone(model, options.get("seed", 0))
    network.to(device)  # type: ignore[arg-type]
    figures: Figures = {"rows fitted": len(rows), "rows held out": len(held_out)}
    if loss == "bt":
        fitted = fit_bradley_terry(network, tokenizer, rows, held_out, max_length=max_length, **options)
        figures |= {"held-out accuracy": fitted.accuracy, "held-out loss, nats": fitted.loss}
        texts = pair_texts([*held_out, *rows])
        if calibrated:
            figures |= _calibrate(lambda: calibration.calibrate(network, tokenizer, held_out))
    else:
        kind: Literal["mse", "ordinal"] = "mse" if loss == "mse" else "ordinal"
        rated = fit_ratings(network, tokenizer, rows, held_out, loss=kind, max_length=max_length, **options)
        figures |= {"held-out correlation": rated.correlation, "held-out pair accuracy": rated.accuracy}
        texts = [str(row.get("prompt") or "") + str(row["completion"]) for row in (*held_out, *rows)]
    normalise(network, tokenizer, texts[:MAX_REFERENCES])

    def save(folder: Path) -> None:
        with no_progress_bars():
            network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return save, figures


def _fit_ensemble(
    model: str,
    pairs: list[Row],
    held_out: list[Row],
    members: int,
    shared_trunk: bool,
    max_length: int | None,
    calibrated: bool,
    device: str,
    options: TrainingOptions,
) -> Saved:
    from rlhf_envs.preferences import fit_ensemble
    from rlhf_envs.preferences.calibration import calibrate_ensemble

    ensemble = fit_ensemble(
        model,
        pairs,
        held_out,
        members=members,
        shared_trunk=shared_trunk,
        max_length=max_length,
        device=device,
        **options,
    )
    accuracy, loss, n = ensemble.metrics
    figures: Figures = {"rows fitted": len(pairs), "rows held out": n, "held-out accuracy": accuracy}
    figures["held-out loss, nats"] = loss
    if calibrated:
        figures |= _calibrate(lambda: calibrate_ensemble(ensemble, held_out))
    return ensemble.save_pretrained, figures


def _calibrate(calibrate: Callable[[], float]) -> Figures:
    """The temperature, or why there is none: a model that cannot be calibrated is a model all the same."""
    from rlhf_envs.preferences.calibration import CalibrationError

    try:
        return {"temperature": calibrate()}
    except CalibrationError as error:
        return {"not calibrated": str(error)}


def eval_folder(model: str, rows: str | Path, bins: int = 10) -> Report:
    """Measure a reward model on a file of pairs or of ratings.

    Raises:
        ValueError: the model is no reward model, or the rows are malformed.
    """
    from rlhf_envs.models import resolve
    from rlhf_envs.preferences import calibration
    from rlhf_envs.preferences.bradley_terry import measure_differences, pair_differences, pair_probabilities
    from rlhf_envs.preferences.ensemble_fit import ensemble_differences
    from rlhf_envs.preferences.regression import evaluate_ratings
    from rlhf_envs.rewards.ensemble import RewardEnsemble, is_ensemble
    from rlhf_envs.rewards.reward_model import load_classifier

    judged = load_judgements(rows)
    network, tokenizer = load_classifier(model)
    if "chosen" not in judged[0]:
        rated = evaluate_ratings(network, tokenizer, judged)
        return Report({"correlation": rated.correlation, "pair accuracy": rated.accuracy, "ratings": rated.n}, {})
    if is_ensemble(resolve(model)):
        differences = ensemble_differences(RewardEnsemble(resolve(model)), judged)
    else:
        differences = pair_differences(network, tokenizer, judged)
    probabilities = pair_probabilities(judged)
    measured = measure_differences(differences, judged)
    figures: dict[str, float] = {"accuracy": measured.accuracy, "loss, nats": measured.loss, "pairs": measured.n}
    figures["expected calibration error"] = calibration.calibration_error(differences, probabilities, bins)
    reliable = calibration.reliability(differences, probabilities, bins)
    tables = {"reliability": [row._asdict() for row in reliable]}
    if np.any(probabilities < 1):
        by_agreement = calibration.accuracy_by_agreement(differences, probabilities)
        tables["accuracy by agreement"] = [row._asdict() for row in by_agreement]
    return Report(figures, tables)
