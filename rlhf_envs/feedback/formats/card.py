"""Write the dataset card of an export: the README.md beside its file, with the Hub's metadata and nobody's texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_envs.cards import MARK

from ..records import MODEL_MARK

if TYPE_CHECKING:
    from rlhf_envs.feedback import Judgement

    from .exporting import Export

__all__ = ["dataset_card"]

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
ABOUT = {
    "preference": "Preferences in TRL's form: `prompt`, `chosen` and `rejected`.",
    "flags": "Flags of harm: `prompt`, `completion`, whether somebody named a harm (`flag`) and which (`harms`).",
    "kto": "Labelled completions in TRL's form: `prompt`, `completion` and `label`.",
    "ratings": "Ratings of completions: `prompt`, `completion` and `rating`.",
    "sft": "Completions to imitate: `prompt` and `completion`.",
    "items": "Everything that was asked and answered: items with all their judgements.",
    "argilla": "A table for Argilla.",
    "label-studio": "Tasks or a table for Label Studio.",
    "potato": "Data for Potato.",
}


def dataset_card(done: Export, path: str | Path, format: str, how: str, judgements: Sequence[Judgement]) -> str:
    """Return the card of an export as Markdown with metadata: numbers, names of columns and of the form, no texts.

    Args:
        done: the export.
        path: its file, which stands beside the card.
        format: the format's name.
        how: how judgements became rows.
        judgements: those of the store, of which they and their authors are counted.

    Raises:
        ImportError: huggingface_hub, which comes with transformers, is missing.
    """
    from huggingface_hub import DatasetCardData

    file, n = Path(path), len(done.rows)
    annotators = {judgement.annotator for judgement in judgements}
    models = {name for name in annotators if name.startswith(MODEL_MARK)}
    by = [*(["human-feedback"] if annotators - models else []), *(["ai-feedback"] if models else [])]
    data = DatasetCardData(
        pretty_name=file.name.partition(".")[0],
        task_categories=["text-generation", "reinforcement-learning"],
        size_categories=[next((name for limit, name in SIZES if n < limit), "n>1M")],
        tags=["rlhf", "rlhf-envs", *by, format],
        configs=[{"config_name": "default", "data_files": file.name}],
    )
    names = list(dict.fromkeys(name for row in done.rows for name in row))
    kinds = sorted({judgement.kind for judgement in judgements})
    left_out = [f"- {count:,} {reason}" for reason, count in sorted(done.dropped.items())] or ["- nothing"]
    lines = [
        "---",
        data.to_yaml(),
        "---",
        MARK,
        "",
        f"# {file.name}",
        "",
        f"{ABOUT.get(format, format)} Exported by `rlhf feedback export --format {format} --how {how}`.",
        "",
        "| | |",
        "|---|---|",
        f"| rows | {n:,} |",
        f"| columns | {', '.join(f'`{name}`' for name in names)} |",
        f"| judgements in the store | {len(judgements):,} |",
        f"| kinds of questions | {', '.join(kinds)} |",
        f"| annotators | {len(annotators):,} |",
        f"| of them models that judge | {len(models):,} |",
        f"| final answers by an admin or adjudicator | {done.finals:,} |",
        f"| judgements changed by an admin | {done.fixed:,} |",
        f"| ties written both ways round | {done.doubled:,} |",
        "",
        "## Left out",
        "",
        *left_out,
        "",
        "## Before you publish it",
        "",
        "- **Licence.** This card states none: it depends on where the prompts and the completions come from, and on "
        "what the annotators agreed to. Add `license:` to the metadata above.",
        "- **People.** The file has the texts that were judged, and where the format has them annotators' names, their "
        "comments and times. This card has none of them.",
    ]
    return "\n".join(lines) + "\n"
