"""Write what is known of an export: the table of before and after, the model card, and the checksums."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from rlhf_envs.cards import CARD, MARK
from rlhf_envs.rendering import as_markdown

from ...core.plain_card import hub_base
from ...saving.provenance import provenance, without_passwords
from ...training.memory import show_bytes
from .measure import Exported, Measured

__all__ = ["SUMS", "table_rows", "write_card_of", "write_sums"]

SUMS = "SHA256SUMS"
LOADS = {
    "model": (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("this/folder")\n'
        'model = AutoModelForCausalLM.from_pretrained("this/folder")'
    ),
    "adapters": (
        "from rlhf_envs.models import load_causal_lm, load_tokenizer\n\n"
        'tokenizer = load_tokenizer("this/folder")\n'
        'model = load_causal_lm("this/folder")  # the base has to be here'
    ),
    "onnx": (
        "import numpy as np\nimport onnxruntime\nfrom transformers import AutoTokenizer\n\n"
        'session = onnxruntime.InferenceSession("this/folder/model.onnx")\n'
        'text = AutoTokenizer.from_pretrained("this/folder")(["..."], return_tensors="np")\n'
        'ids, mask = (text[name].astype(np.int64) for name in ("input_ids", "attention_mask"))\n'
        "past = {\n"
        "    given.name: np.zeros((len(ids), given.shape[1], 0, given.shape[3]), np.float32)\n"
        "    for given in session.get_inputs()[2:]\n"
        "}\n"
        "for _ in range(20):\n"
        '    logits, *cache = session.run(None, {"input_ids": ids, "attention_mask": mask, **past})\n'
        "    ids = logits[:, -1:].argmax(-1)  # the likeliest token\n"
        "    mask, past = np.hstack([mask, np.ones_like(ids)]), dict(zip(past, cache))"
    ),
    "gguf": (
        "from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("this/folder")\n'
        'config = AutoConfig.from_pretrained("this/folder")\n'
        'model = AutoModelForCausalLM.from_pretrained("this/folder", gguf_file="model.gguf", config=config)'
    ),
}


def table_rows(before: Measured, after: Measured) -> list[tuple[str, str, str, str]]:
    """Return the rows of the table: what, before, after, change."""
    first, last = before.perplexity, after.perplexity
    rows = [
        ("size of the weights", show_bytes(before.size), show_bytes(after.size), f"x {after.size / before.size:.3f}"),
        ("perplexity", f"{first.mean:.3f}", f"{last.mean:.3f}", f"{100 * (last.mean / first.mean - 1):+.2f}%"),
    ]
    total, same = len(before.texts), after.same_as(before)
    rows.append(("same completions", str(total), str(same), f"{same} of {total}"))
    was, now, change = before.estimates(), after.estimates(), after.change_from(before)
    rows += [(name, str(was[name]), str(now[name]), str(change[name])) for name in now]
    if not math.isnan(after.sparsity):
        zeros = (f"{before.sparsity:.3f}", f"{after.sparsity:.3f}", f"{after.sparsity - before.sparsity:.3f}")
        rows.append(("zeros in linear layers", *zeros))
    return rows


def write_card_of(exported: Exported, folder: Path, what: str, base: str | None, kind: str) -> None:
    """Write README.md: what was exported and how, the table, how it loads, and what made it.

    Args:
        exported: what was written and measured.
        folder: where to write; the export gets its own name once it is whole.
        what: a sentence that says what was exported.
        base: the model that the exported one was trained from; None for a fresh one.
        kind: how it loads, a key of `LOADS`.
    """
    data = ModelCardData(
        library_name={"gguf": "gguf", "onnx": "onnx", "adapters": "peft"}.get(kind, "transformers"),
        pipeline_tag="text-generation",
        base_model=hub_base(base),
        tags=["reinforcement-learning", "rlhf", "rlhf-envs"],
    )
    shown = "a fresh model" if base is None else f"`{Path(base).name if Path(base).is_absolute() else base}`"
    made: dict[str, Any] = provenance()
    parts = [
        f"---\n{data.to_yaml()}\n---",
        MARK,
        "",
        f"# {exported.folder.absolute().name}",
        "",
        what,
        *([""] if exported.notes else []),
        *(f"- {note}" for note in exported.notes),
        "",
        f"## {exported.counted}, mean ± standard error",
        "",
        "| | before | after | change |",
        "|---|---|---|---|",
        *(f"| {as_markdown(name)} | {was} | {now} | {change} |" for name, was, now, change in exported.rows),
        "",
        "Perplexity is that of the completions that the model wrote before the export, read by both. For the other "
        "rows both wrote anew, with the same random numbers.",
        "",
        "## Use",
        "",
        f"```python\n{LOADS[kind]}\n```",
        "",
        f"`sha256sum -c {SUMS}` checks the files. No file is a pickle.",
        "",
        "## Licence",
        "",
        f"The weights come from {shown}, whose licence holds for them.",
        "",
        "## How it was made",
        "",
        f"```\n{made.get('command')}\n```",
    ]
    (folder / CARD).write_text(without_passwords("\n".join(parts)) + "\n", encoding="utf-8")


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS, the SHA-256 of every other file, in the form that `sha256sum -c` reads."""
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(f"{digest}  {path.relative_to(folder).as_posix()}\n")
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
