"""Define the description of a picture: see a coloured shape, and say what it is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_envs.datasets import load_rows
from rlhf_envs.datasets.messages import Prompt, said
from rlhf_envs.datasets.pictures import picture_key
from rlhf_envs.overlap import overlap_words
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.images.questions import COLORS, SHAPES

__all__ = ["ImageCaption", "words_in_common"]

PROMPT = "Describe the picture:"


def words_in_common(completions: Sequence[Prompt], reference: Sequence[str], **columns: Any) -> list[float]:
    """Return the F1 of the words of each completion and its reference, 0 to 1 (ROUGE-1's).

    Each character of Chinese is a word.
    """
    scores = []
    for completion, wanted in zip(completions, reference, strict=True):
        ours, theirs = (Counter(overlap_words(text)) for text in (said(completion), wanted))
        scores.append(2 * (ours & theirs).total() / max(ours.total() + theirs.total(), 1))
    return scores


class ImageCaption(Task):
    """See a picture of a coloured shape, and describe it.

    ## Description
    The data are the 760 pictures of `ImageQA`, in the same splits, and what they show, such as "a red circle in the
    picture". The model is a vision-language model, by default the embedded "tiny-vision". `rlhf sft
    rlhf/ImageCaption-v0 start --epochs 0.2 --batch-size 16` teaches it the form, `rlhf train --env
    rlhf/ImageCaption-v0 --algo rloo --model start` the rest.

    ## Observation space
    `input_ids` and `attention_mask`, (76,) each: a prompt of up to 64 tokens, 36 of them for the picture, and up to 12
    new ones. `pixel_values`, (1, 3, 48, 48) float32: the picture, as the model's processor makes it.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`.

    ## Reward
    The F1 of the description's words and the reference's, 0 to 1 (ROUGE-1); each character of Chinese is a word.
    Evaluations report what it names: `shape` and `color` are 1 where the right one is named and no other, and
    `attributes` is 1 where both are. Of other data they report `exact`, 1 where the words are the reference's.

    ## Episode end
    EOS, or 12 new tokens.

    ## Arguments
    `gymnasium.make("rlhf/ImageCaption-v0")` needs none. `data` takes pictures of your own, with the columns `image`,
    `prompt` and `reference`; with the columns `shape` and `color` the metrics are measured too. `python -m
    scripts.datasets.emoji_pictures` writes such a file: 1,854 emoji, each with its English and its Chinese name, from a
    font and a package that are not bundled. `rlhf sft emoji.jsonl.gz start --model tiny-vision --column
    completion:reference` teaches the form. "tiny-vision" writes Chinese in bytes, so that these names need
    `max_new_tokens=32`: a third of the Chinese ones is longer than 12. It takes the other arguments of
    `TextGenerationEnv`, such as `model`, `split` and `reward`.

    ## Version history
    v0: the first version.
    """

    name = "image-caption"
    default_data = "easy_vqa"
    default_model = "tiny-vision"
    start = "--epochs 0.2 --batch-size 16"
    reads_pictures = True
    max_prompt_tokens = 64
    max_new_tokens = 12

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return one row per picture, or the rows of `data`.

        Raises:
            ValueError: a row of `data` has no reference.
        """
        if data is None:
            pictures = {picture_key(row["image"]): row for row in load_rows("easy_vqa", split)}
            names = ("image", "shape", "color", "picture", "split")
            told = ((row, f" a {row['color']} {row['shape']} in the picture.") for row in pictures.values())
            return [{"prompt": PROMPT, "reference": text, **{n: row[n] for n in names}} for row, text in told]
        rows = super().rows(split, data)
        if missing := [i for i, row in enumerate(rows) if not str(row.get("reference") or "").strip()]:
            raise ValueError(
                f"task {self.name!r}: row {missing[0]} has no 'reference', the description to compare with: it has "
                f"{', '.join(map(repr, rows[missing[0]]))}; rename one, columns={{'reference': 'caption'}}"
            )
        return rows

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return the F1 of the words."""
        return words_in_common

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return `shape`, `color` and `attributes`, whether the description names the right ones and no others.

        Of rows without these columns it is `exact`: whether the words are those of the reference.
        """
        if not {"shape", "color"} <= columns.keys():
            pairs = zip(completions, columns["reference"], strict=True)
            return {"exact": [float(overlap_words(text) == overlap_words(wanted)) for text, wanted in pairs]}
        shapes = [names_only(text, SHAPES, told) for text, told in zip(completions, columns["shape"], strict=True)]
        colors = [names_only(text, COLORS, told) for text, told in zip(completions, columns["color"], strict=True)]
        both = [shape * color for shape, color in zip(shapes, colors, strict=True)]
        return {"shape": shapes, "color": colors, "attributes": both}


def names_only(text: str, words: Sequence[str], wanted: str) -> float:
    """Return whether a text names the `wanted` one of some words and no other of them."""
    return float({*re.findall(r"\w+", text.lower())} & {*words} == {wanted})
