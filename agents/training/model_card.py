"""Write the model card of a trained model: the README.md in its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData

from rlhf_envs.cards import CARD, MARK, write_card
from rlhf_envs.rendering import as_markdown
from rlhf_envs.tasks.lookup import task_of

from ..core.plain_card import hub_base
from ..core.samples import sample_markdown
from ..saving.folders import CONFIG, read_config
from ..saving.provenance import provenance, read_records, without_passwords
from ..saving.run_paths import as_typed

if TYPE_CHECKING:
    from .config import TrainConfig
    from .report import TrainResult

__all__ = ["CARD", "MARK", "model_card", "write_model_card"]

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
BUNDLED = "The licences of the bundled samples stand in `rlhf_envs/datasets/SOURCES.md`; some have none stated."
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
    return write_card(folder, model_card(result))


def model_card(result: TrainResult) -> str:
    """Return the card as Markdown: base model, algorithm, tokens, figures before and after, settings and versions.

    Of data that is not part of this package no text is in it: then there are no samples.
    """
    config, made = result.config, [*read_records(result.folder / CONFIG)[:-1], provenance()]
    policy = result.agent.policy
    base = policy.base_name or policy.model_name or "a fresh model"
    is_bundled = _is_bundled(config)
    prompt = json.dumps(result.after.completions[0].asked if is_bundled else "...", ensure_ascii=False)
    if policy.picture is None:
        use = USE.format(prompt=prompt, **(ADAPTERS if policy.base_name else PLAIN))
    else:
        use = USE_WITH_PICTURES.format(prompt=prompt)
    tokens = int(result.agent.num_timesteps)
    parts = [
        _front_matter(result, base, "text-generation" if policy.picture is None else "image-text-to-text"),
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
        *(_samples(result) if is_bundled else ["None are shown: the prompts are not of rlhf-envs."]),
        "",
        "## Use",
        "",
        use,
        "`generation_config.json` has the temperature, top_k, top_p and length of the training and of these figures.",
        "",
        "## Licence",
        "",
        f"The weights come from `{base}`, whose licence holds for them. "
        + (BUNDLED if is_bundled else "The data are not part of rlhf-envs: who publishes the model says what holds."),
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


def _front_matter(result: TrainResult, base: str, pipeline: str) -> str:
    """Return the metadata that the Hub reads: the base, tags, and the results on held-out prompts."""
    config = result.config
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=config.env_id,
            dataset_name=config.env_id,
            dataset_split=config.test_split,
            metric_type=name,
            metric_name=name,
            metric_value=round(float(estimate.mean), 6),
        )
        for name, estimate in result.after.estimates().items()
        if math.isfinite(estimate.mean)
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=pipeline,
        base_model=hub_base(base),
        tags=["reinforcement-learning", "rlhf", "rlhf-envs", config.algo],
        model_name=result.folder.name,
        eval_results=results,
    )
    return f"---\n{data.to_yaml()}\n---"


def _is_bundled(config: TrainConfig) -> bool:
    """Return whether all prompts are samples of this package: no data were given, and the task is ours."""
    if _names_data(config.env_kwargs):
        return False
    task = task_of(config.env_id, **{k: v for k, v in config.env_kwargs.items() if k in ("task", "tasks")})
    members = [] if task is None else [task, *task.subtasks.values()]
    return bool(members) and all(type(one).__module__.startswith("rlhf_envs.tasks.") for one in members)


def _names_data(value: Any) -> bool:
    """Return whether arguments have `data` in them, at any depth."""
    if isinstance(value, Mapping):
        return any(name == "data" or _names_data(item) for name, item in value.items())
    return isinstance(value, list | tuple) and any(map(_names_data, value))


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
    """Return the run's settings without those that say where it was written, and without texts of the user's."""
    places = {"log_folder", "run_name", "progress", "verbose", "wandb", "tracker", "project"}
    typed = as_typed(result.config.model_dump(mode="json"), read_config(result.folder), result.folder)
    settings = {name: value for name, value in typed.items() if name not in places}
    return {name: _without_texts(value) for name, value in settings.items()}


def _without_texts(value: Any) -> Any:
    """Return settings with the number of rows in place of rows of data."""
    if isinstance(value, list):
        return [_without_texts(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {name: _without_texts(item) for name, item in value.items() if name != "data" or isinstance(item, str)}
    return kept | ({"data": f"{len(value['data'])} rows"} if isinstance(value.get("data"), list) else {})
