"""Write the model card of a trained model: the README.md in its folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_envs.models import has_place
from rlhf_envs.rendering import as_markdown

from ..core.samples import sample_markdown
from ..saving.folders import CONFIG
from ..saving.provenance import provenance, read_records, without_passwords

if TYPE_CHECKING:
    from .config import TrainConfig
    from .report import TrainResult

__all__ = ["CARD", "MARK", "model_card", "write_model_card"]

logger = logging.getLogger(__name__)

CARD = "README.md"
MARK = "<!-- Written by rlhf-envs. Remove this line to keep your own text: it is then never replaced. -->"
USE = """\
```python
from transformers import pipeline{imports}

write = pipeline("text-generation", {arguments})
print(write({prompt})[0]["generated_text"])
```
"""
USE_WITH_PICTURES = """\
```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("this/folder")
model = AutoModelForImageTextToText.from_pretrained("this/folder")
given = processor(images=Image.open("picture.png"), text=processor.image_token + {prompt}, return_tensors="pt")
print(processor.decode(model.generate(**given)[0]))
```
"""
PLAIN = dict(imports="", arguments='"this/folder"')
ADAPTERS = dict(
    imports="\n\nfrom rlhf_envs.models import load_causal_lm, load_tokenizer",
    arguments='load_causal_lm("this/folder"), tokenizer=load_tokenizer("this/folder")',
)


def write_model_card(folder: Path, result: TrainResult) -> Path | None:
    """Write the card into a model's folder, and return its path. A README of somebody else's is left alone.

    Returns:
        The path, or None where a README.md without our mark stands in the folder. A warning says so.
    """
    path = folder / CARD
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        logger.warning("%s is not replaced by a model card: it is not one of ours", path)
        return None
    path.write_text(model_card(result), encoding="utf-8")
    return path


def model_card(result: TrainResult) -> str:
    """Return the card as Markdown: base model, algorithm, tokens, figures before and after, settings and versions."""
    config, made = result.config, [*read_records(result.folder / CONFIG)[:-1], provenance()]
    policy = result.agent.policy
    base = policy.base_name or policy.model_name or "a fresh model"
    prompt = json.dumps(result.after.completions[0].asked, ensure_ascii=False)
    if policy.picture is None:
        use = USE.format(prompt=prompt, **(ADAPTERS if policy.base_name else PLAIN))
    else:
        use = USE_WITH_PICTURES.format(prompt=prompt)
    tokens = int(result.agent.num_timesteps)
    parts = [
        _front_matter(base, config.algo, "text-generation" if policy.picture is None else "image-text-to-text"),
        MARK,
        "",
        f"# {result.folder.name}",
        "",
        f"`{base}`, trained with **{config.algo}** on `{config.env_id}` for {tokens:,} tokens (seed {config.seed}). "
        + _supervision(config),
        "",
        f"## {result.after.counted}, mean ± standard error",
        "",
        *_figures(result),
        "",
        "## The same prompts before and after",
        "",
        *_samples(result),
        "",
        "## Use",
        "",
        use,
        "`generation_config.json` has the temperature, top_k, top_p and length of the training and of these figures.",
        "",
        "## How it was made",
        "",
        "```",
        *dict.fromkeys(str(record.get("command")) for record in made),
        "```",
        "",
        "```json",
        json.dumps({"settings": _settings(result) | {"model": base}, **made[-1]}, indent=2, default=str),
        "```",
    ]
    return without_passwords("\n".join(parts)) + "\n"


def _supervision(config: TrainConfig) -> str:
    """Return the sentence that says what the model learned from."""
    if config.sft_coef:
        return f"It learned from the reward, and from the completions in a file (sft_coef={config.sft_coef:g})."
    return "The reward at the end of a completion is the only supervision."


def _front_matter(base: str, algorithm: str, pipeline: str) -> str:
    lines = ["---", "library_name: transformers", f"pipeline_tag: {pipeline}"]
    if "/" in base and has_place(base) and not Path(base).exists():  # a hub id, which the hub links
        lines.append(f"base_model: {base}")
    return "\n".join([*lines, f"tags: [reinforcement-learning, rlhf, rlhf-envs, {algorithm}]", "---"])


def _figures(result: TrainResult) -> list[str]:
    before, after = result.before.estimates(), result.after.estimates()
    change = result.after.change_from(result.before)
    rows = ["| | before | after | change |", "|---|---|---|---|"]
    for name in after:
        if name != "distinct_within" and name in before:
            changed = str(change[name]) if name in change else ""
            of = f" (of {len(result.after.reward)} completions)" if name == "distinct_bigrams" else ""
            rows.append(f"| {as_markdown(name)}{of} | {before[name]} | {after[name]} | {changed} |")
    return rows


def _samples(result: TrainResult, n: int = 3) -> list[str]:
    lines = []
    for first, second in zip(result.before.samples(n), result.after.samples(n), strict=True):
        for name, sample in (("before", first), ("after", second)):
            lines.append(f"- {name}: {sample_markdown(sample.asked, sample.completion)}")
    return lines


def _settings(result: TrainResult) -> dict[str, Any]:
    """Return the run's settings without those that say where it was written."""
    places = {"log_folder", "run_name", "progress", "verbose", "wandb", "tracker", "project"}
    return {name: value for name, value in result.config.model_dump(mode="json").items() if name not in places}
