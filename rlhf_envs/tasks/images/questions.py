"""Define the question about a picture: see a shape, and answer with one word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_envs.tasks.labels import LabelTask

__all__ = ["COLORS", "SHAPES", "ImageQA", "kind_of"]

SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
KINDS = ("shape", "color", "yes_no")


def kind_of(label: str) -> str:
    """Return the kind of question that has this answer: "shape", "color" or "yes_no"."""
    return "shape" if label in SHAPES else "color" if label in COLORS else "yes_no"


class ImageQA(LabelTask):
    """See a picture of a coloured shape, and answer a question about it with one word.

    ## Description
    The data are 760 pictures of 64 x 64 pixels, each with about ten questions: its shape, its colour, and yes or no.
    The splits share no picture (500 train, 80 validation, 180 test). The model is a vision-language model, by default
    the embedded "tiny-vision". `rlhf sft rlhf/ImageQA-v0 start --epochs 0.15 --batch-size 16 --learning-rate 5e-4`
    teaches it the form, `rlhf train --env rlhf/ImageQA-v0 --model start` the rest. The question alone gives 0.50 of
    the yes-or-no questions, a third of the shapes and an eighth of the colours.

    ## Observation space
    `input_ids` and `attention_mask`, (69,) each: a prompt of up to 64 tokens, 36 of them for the picture, and up to 5
    new ones. `pixel_values`, (1, 3, 48, 48) float32: the picture, as the model's processor makes it.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`.

    ## Reward
    +1 for the right word, and -1 for any other answer. Evaluations report `accuracy_shape`, `accuracy_color` and
    `accuracy_yes_no` beside it, and `balanced_accuracy`, the mean over the 13 answers.

    ## Episode end
    EOS, or 5 new tokens.

    ## Arguments
    `gymnasium.make("rlhf/ImageQA-v0")` needs none. `data` takes pictures of your own, with the columns `image` (a path,
    "data:image/png;base64,...", bytes or a PIL image), `prompt` (or `columns={"prompt": "question"}`) and `label`, one
    of the 13 words. Rows without a column `split` are split by their pictures. `python -m scripts.datasets.easy_vqa`
    writes the full set, 4,422 pictures. It takes the other arguments of `TextGenerationEnv`, such as `model`, `split`
    and `reward`.

    ## Version history
    v0: the first version.
    """

    name = "image-qa"
    default_data = "easy_vqa"
    default_model = "tiny-vision"
    start = "--epochs 0.15 --batch-size 16 --learning-rate 5e-4"
    reads_pictures = True
    labels = (*SHAPES, *COLORS, "yes", "no")
    template = "{text}\nAnswer:"
    weighted = False
    max_prompt_tokens = 64
    max_new_tokens = 5

    def corpus_metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, float]:
        """Return the metrics of labels, and the accuracy by the kind of question: NaN for a kind that is not there."""
        answers: Sequence[str | None] = self.answers(completions)
        right = np.array([a == label for a, label in zip(answers, columns["label"], strict=True)], dtype=float)
        kinds = np.array([kind_of(label) for label in columns["label"]])
        by_kind = {f"accuracy_{k}": float(right[kinds == k].mean()) if (kinds == k).any() else np.nan for k in KINDS}
        return {**super().corpus_metrics(prompts, completions, columns), **by_kind}
