"""Make a reward model of judgements: hold rows out, fit, calibrate, normalise, measure and save.

`rlhf reward fit`, the rounds of `rlhf loop` and the refits of the human reward all call `fit_reward`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from rlhf_envs.datasets import load_rows
from rlhf_envs.datasets.messages import is_role_lines
from rlhf_envs.datasets.rows import as_text_rows, is_plain
from rlhf_envs.files import atomic_folder, is_replaceable
from rlhf_envs.models import load_tokenizer, no_progress_bars, resolve, split_label
from rlhf_envs.models.devices import find_device
from rlhf_envs.rewards.ensemble import RewardEnsemble, is_ensemble
from rlhf_envs.rewards.reward_model import load_classifier, model_length
from rlhf_envs.tokens import common_ending

from . import calibration
from .bradley_terry import (
    check_pairs,
    count_equal,
    fit_bradley_terry,
    measure_differences,
    normalise,
    pair_differences,
    pair_probabilities,
)
from .costs import calibrate_cost, check_flags, evaluate_flags, fit_flags
from .ensemble_fit import ensemble_differences, fit_ensemble
from .pseudo_labels import pseudo_label
from .regression import check_ratings, evaluate_ratings, fit_ratings
from .splitting import Split, split_rows, whole_texts, without_shared
from .training import load_backbone

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Unpack

    from .training import TrainingOptions

__all__ = [
    "HELD_OUT",
    "FittedReward",
    "Metrics",
    "Report",
    "as_judgements",
    "as_texts",
    "fit_reward",
    "load_judgements",
    "measure_reward",
]

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]
Metrics = dict[str, float | str]  # a text explains a missing number, or warns about the other numbers
Loss = Literal["bt", "mse", "ordinal", "flags"]
HELD_OUT = "held_out.jsonl"  # in the folder of a reward model
NUMBERS = ("margin", "probability", "weight", "label", "flag")
PAIR, RATING, FLAG = ("chosen", "rejected"), ("completion", "label"), ("completion", "flag")
CHECKS = {"bt": check_pairs, "mse": check_ratings, "ordinal": check_ratings, "flags": check_flags}


class FittedReward(NamedTuple):
    """Hold the rows that a saved reward model was fitted to, the rows it was measured on, and its metrics."""

    fitted: Sequence[Row]
    held_out: Sequence[Row]
    metrics: Metrics


def fit_reward(
    rows: Sequence[Row],
    folder: str | Path,
    *,
    model: str = "tiny",
    loss: Loss = "bt",
    members: int = 1,
    shared_trunk: bool = True,
    held_out: Sequence[Row] | None = None,
    held_out_share: float = 0.1,
    references: Sequence[str] | None = None,
    calibrate: bool = True,
    unjudged: Sequence[Mapping[str, object]] = (),
    max_length: int | None = None,
    device: str = "cpu",
    made: Mapping[str, Any] | None = None,
    **options: Unpack[TrainingOptions],
) -> FittedReward:
    """Fit a reward model, or an ensemble of them, to rows and write it into a folder in one atomic step.

    The folder holds a plain Hugging Face sequence classifier with one label, the held-out rows (`held_out.jsonl`) and
    a manifest with the arguments and the metrics.

    Args:
        rows: pairs (`{"prompt", "chosen", "rejected"}`, see `fit_bradley_terry`) with the loss "bt", flags (`{"prompt",
            "completion", "flag"}`, see `fit_flags`) with "flags", else ratings (`{"prompt", "completion", "label"}`,
            see `fit_ratings`). Messages are written in the chat template of the
            model's tokenizer, or else in role lines (see `rlhf_envs.datasets.messages`).
        folder: where to write. A reward model that this function wrote there before is replaced.
        model: name of the backbone, see `load_backbone`.
        loss: "bt" (Bradley-Terry) for pairs, "mse" or "ordinal" for ratings, "flags" for a cost, whose scores are
            probabilities.
        members: models in the ensemble; 1 for a single model.
        shared_trunk: whether the members of an ensemble are heads of one model, or models of their own.
        held_out: rows to measure on, none of them in `rows`. By default `split_rows` holds some of `rows` out.
        held_out_share: the share of the rows that `split_rows` holds out.
        references: texts over which the scores get mean 0 and standard deviation 1. By default the texts of the
            held-out rows and then of the fitted rows, the first 1,000.
        calibrate: whether to scale the head so that score differences are log-odds, with the loss "bt"; or to set the
            slope and intercept of the log-odds of a flag, with "flags".
        unjudged: pairs that nobody has judged (`{"prompt", "completions": [first, second]}`). An ensemble is fitted a
            second time: to the rows, and to the pairs here that it is sure about, see `pseudo_label`. A pair that
            shares a prompt or a text with a held-out row is left out.
        max_length: tokens read of each text (its last ones), also by the saved model; its positions by default.
        device: where to fit: "cpu", "cuda", or "auto" for a GPU if there is one.
        made: a record of the command, the versions and the machine, for the manifest.
        **options: see `rlhf_envs.preferences.training.optimise`; `seed` also draws the split.

    Raises:
        NothingToFit: a ValueError: the rows tell no texts apart, or there is nothing to hold out.
        ValueError: the rows or the arguments do not fit together; the message says which.
        FileExistsError: the folder holds something else than a reward model of ours.
    """
    if loss != "bt" and members > 1:
        raise ValueError(f"members={members} with loss={loss!r}: an ensemble is fitted to pairs (loss='bt')")
    if unjudged and members < 2:
        raise ValueError("unjudged pairs: it takes an ensemble to label pairs: give members=2 or more")
    device = find_device(device)
    folder = Path(folder)
    if not is_replaceable(folder):
        raise FileExistsError(f"{folder} exists and is no reward model of ours: choose another name, or move it away")
    rows = _checked(rows, "row", model, loss)  # before the split moves them
    if held_out is None:
        split = split_rows(rows, held_out_share, options.get("seed", 0))
    else:
        split = Split(rows, _checked(held_out, "held-out row", model, loss))
    references = split.references() if references is None else references
    if members == 1:
        save, metrics = _fit_single(split, model, loss, references, calibrate, max_length, device, options)
    else:
        save, metrics = _fit_ensemble(
            split, unjudged, model, members, shared_trunk, references, calibrate, max_length, device, options
        )
    if split.warning:
        metrics["warning"] = split.warning
    given = {"model": model, "loss": loss, "members": members, "train": str(options.get("train", "full"))}
    given |= {"epochs": options.get("epochs", 1), "seed": options.get("seed", 0)}
    record = {} if made is None else {"made": made}
    with atomic_folder(folder, kind="reward model", fit=given, figures=metrics, **record) as place:
        save(place)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in split.held_out)
        (place / HELD_OUT).write_text(lines, encoding="utf-8")
    return FittedReward(split.fitted, split.held_out, metrics)


def _checked(rows: Sequence[Row], what: str, model: str, loss: Loss) -> list[Row]:
    """Return rows as texts. Raise a ValueError, which names the row, if one does not suit the loss."""
    texts = as_texts(rows, model)
    CHECKS[loss](texts, lambda index: f"{what} {index + 1}")
    return texts


def as_texts(rows: Sequence[Row], model: str) -> list[Row]:
    """Return rows of texts: conversations are written in the chat template of the model's tokenizer, if it has one."""
    name = split_label(model)[0]
    lines = sum(is_role_lines(row.get("prompt")) for row in rows)
    if lines and load_tokenizer(name).chat_template:
        logger.warning(
            "%d of %d prompts are conversations in role lines ('User: ...'), and %r has a chat template, in which it "
            "will score an environment's conversations: give messages (rlhf feedback export --conversational)",
            lines,
            len(rows),
            model,
        )
    return list(rows) if all(map(is_plain, rows)) else as_text_rows(rows, load_tokenizer(name))


Fit = tuple[Callable[[Path], None], Metrics]  # what writes the model into a folder, and its metrics


def _fit_single(
    split: Split,
    model: str,
    loss: Loss,
    references: Sequence[str],
    calibrate: bool,
    max_length: int | None,
    device: str,
    options: TrainingOptions,
) -> Fit:
    rows, held_out = split.fitted, split.held_out
    network, tokenizer = load_backbone(model, options.get("seed", 0))
    network.to(device)  # type: ignore[arg-type]
    metrics: Metrics = {"rows fitted": len(rows), "rows held out": len(held_out)}
    if loss == "bt":
        fitted = fit_bradley_terry(network, tokenizer, rows, held_out, max_length=max_length, **options)
        metrics |= {"held-out accuracy": fitted.accuracy, "held-out loss, nats": fitted.loss}
        metrics |= _equal_pairs(network, tokenizer, split)
        if calibrate:
            metrics |= _calibrate(lambda: calibration.calibrate(network, tokenizer, held_out))
    elif loss == "flags":
        fit_flags(network, tokenizer, rows, n_held_out=len(held_out), max_length=max_length, **options)
        if calibrate:
            metrics |= _calibrate(lambda: calibrate_cost(network, tokenizer, held_out)[0], "slope")
        metrics |= _cost_metrics(network, tokenizer, held_out, "held-out ")
    else:
        rated = fit_ratings(network, tokenizer, rows, held_out, loss=loss, max_length=max_length, **options)
        metrics |= {"held-out correlation": rated.correlation, "held-out pair accuracy": rated.accuracy}
    if loss != "flags":
        normalise(network, tokenizer, references)
    _keep_ending([network], tokenizer, split)

    def save(folder: Path) -> None:
        with no_progress_bars():
            network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return save, metrics


def _fit_ensemble(
    split: Split,
    unjudged: Sequence[Mapping[str, object]],
    model: str,
    members: int,
    shared_trunk: bool,
    references: Sequence[str],
    calibrate: bool,
    max_length: int | None,
    device: str,
    options: TrainingOptions,
) -> Fit:
    def fit(rows: Sequence[Row]) -> RewardEnsemble:
        return fit_ensemble(
            model,
            rows,
            split.held_out,
            members=members,
            shared_trunk=shared_trunk,
            references=references,
            max_length=max_length,
            device=device,
            **options,
        )

    ensemble = fit(split.fitted)
    metrics: Metrics = {"rows fitted": len(split.fitted), "rows held out": len(split.held_out)}
    if unjudged:
        labelled = without_shared(pseudo_label(ensemble, unjudged), split.held_out)
        metrics["rows pseudo-labelled"] = len(labelled)
        ensemble = fit([*split.fitted, *labelled])
    accuracy, loss, _ = ensemble.metrics
    metrics |= {"held-out accuracy": accuracy, "held-out loss, nats": loss}
    metrics |= _equal_pairs(ensemble.networks[0], ensemble.tokenizer, split)
    _keep_ending(ensemble.networks, ensemble.tokenizer, split)
    if calibrate:
        metrics |= _calibrate(lambda: calibration.calibrate_ensemble(ensemble, split.held_out))
    return ensemble.save_pretrained, metrics


def _keep_ending(networks: Sequence[PreTrainedModel], tokenizer: PreTrainedTokenizerBase, split: Split) -> None:
    """Keep with the models what the texts that they were fitted to end with, if it is an EOS."""
    texts = [text for row in (*split.fitted, *split.held_out) for text in whole_texts(row)]
    if ending := common_ending(tokenizer, texts):
        for network in networks:
            network.config.reward_ending = ending


def _equal_pairs(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, split: Split) -> Metrics:
    """Return the pairs, fitted and held out, whose texts are the same to the model; nothing if there are none."""
    equal = count_equal(tokenizer, [*split.fitted, *split.held_out], model_length(network))
    return {"pairs equal once cut": equal} if equal else {}


def _cost_metrics(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], before: str = ""
) -> dict[str, float]:
    """Return how well a cost foretells flags, by name, with a word before each name."""
    found = evaluate_flags(network, tokenizer, rows)
    return {
        f"{before}AUC": found.auc,
        f"{before}Brier score": found.brier,
        f"{before}calibration error": found.calibration_error,
        f"{before}mean probability": found.probability,
        f"{before}share of flags": found.flagged,
    }


def _calibrate(calibrate: Callable[[], float], name: str = "temperature") -> Metrics:
    """Return the temperature or slope, or why there is none: a model that is not calibrated is saved all the same."""
    try:
        return {name: calibrate()}
    except calibration.CalibrationError as error:
        return {"not calibrated": str(error)}


def load_judgements(path: str | Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Load a file of pairs, ratings or flags, in texts or in conversations, which stay messages.

    Numbers that stand as text (in a CSV) become numbers, and true and false 1 and 0; empty ones and NaN are left out.

    Args:
        path: a file, see `rlhf_envs.datasets.load_rows`.
        columns: the columns that every row needs. By default "chosen" and "rejected" if the first row has a "chosen",
            else "completion" and "flag" if it has a "flag", else "completion" and "label".

    Raises:
        ValueError: the file or a row is malformed; the message has the file and the line.
    """
    rows: list[dict[str, Any]] = [dict(row) for row in load_rows(path, required=())]
    return as_judgements(rows, lambda index: f"{path}, row {index + 1}", columns)


def as_judgements(
    rows: list[dict[str, Any]], where: Callable[[int], str], columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return rows of a file after checking them, with numbers where these stand as text; see `load_judgements`.

    Args:
        rows: at least one, which are changed.
        where: names a row by its index, for messages.
        columns: see `load_judgements`.
    """
    needed = columns or (PAIR if "chosen" in rows[0] else FLAG if "flag" in rows[0] else RATING)
    for index, row in enumerate(rows):
        if missing := [name for name in needed if name not in row]:
            have = ", ".join(row)
            raise ValueError(f"{where(index)}: no column {missing[0]!r} (it has: {have}): add or rename it")
        for name in NUMBERS:
            try:
                row[name] = _number(row.get(name))
            except ValueError:
                raise ValueError(f"{where(index)}: {name} is {row[name]!r}, not a number") from None
            if row[name] is None:
                del row[name]
    texts = as_text_rows(rows, where=where)  # raises if one cannot be read
    for kind, check in ((PAIR, check_pairs), (RATING, check_ratings), (FLAG, check_flags)):
        if set(kind) <= set(needed):
            check(texts, where)
    return rows


def _number(given: Any) -> Any:
    """Return the number that a text stands for, None for an empty one and for NaN, and anything else as it is."""
    if isinstance(given, str):
        word = given.strip().casefold()
        given = {"true": 1.0, "false": 0.0, "": None}[word] if word in ("true", "false", "") else float(word)
    return None if isinstance(given, float) and math.isnan(given) else given


class Report(NamedTuple):
    """Hold metrics by name, and tables by title."""

    metrics: dict[str, float]
    tables: dict[str, list[dict[str, float]]]


def measure_reward(model: str, rows: Sequence[Row], bins: int = 10) -> Report:
    """Measure a reward model on pairs, or where the rows have no "chosen" on flags or ratings.

    Args:
        model: a name, folder or hub id, with "@label" for a classifier of several labels.
        rows: see `load_judgements`.
        bins: bins of the reliability table.

    Raises:
        ValueError: the model is no reward model, or the rows are malformed.
    """
    name = split_label(model)[0]
    rows = as_texts(rows, model)
    network, tokenizer = load_classifier(model)
    if "flag" in rows[0]:
        return Report({**_cost_metrics(network, tokenizer, rows), "flags": len(rows)}, {})
    if "chosen" not in rows[0]:
        rated = evaluate_ratings(network, tokenizer, rows)
        return Report({"correlation": rated.correlation, "pair accuracy": rated.accuracy, "ratings": rated.n}, {})
    if is_ensemble(resolve(name)):
        differences = ensemble_differences(RewardEnsemble(resolve(name)), rows)
    else:
        differences = pair_differences(network, tokenizer, rows)
    probabilities = pair_probabilities(rows)
    measured = measure_differences(differences, rows)
    metrics: dict[str, float] = {"accuracy": measured.accuracy, "loss, nats": measured.loss, "pairs": measured.n}
    metrics["expected calibration error"] = calibration.calibration_error(differences, probabilities, bins)
    tables: dict[str, Sequence[Any]] = {"reliability": calibration.reliability(differences, probabilities, bins)}
    if np.any(probabilities < 1):
        tables["accuracy by agreement"] = calibration.accuracy_by_agreement(differences, probabilities)
    return Report(metrics, {title: [row._asdict() for row in table] for title, table in tables.items()})
