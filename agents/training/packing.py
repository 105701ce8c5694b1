"""Put short examples into rows of one length.

The positions of an example begin at 0. Where the model reads them, the examples of a row do not attend to each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from ..core.examples import IGNORED, Example
from ..core.packing import fill_rows

__all__ = ["PackedExamples"]


class PackedExamples(Dataset[dict[str, torch.Tensor]]):
    """Hold rows of `max_length` tokens, with several examples each where the model can tell them apart.

    Args:
        examples: what to learn, of at most `max_length` tokens each.
        max_length: the tokens of a row.
        pad: the id that fills rows; it has no loss and nothing attends to it.
        packed: whether a row may hold several examples.
    """

    def __init__(self, examples: Sequence[Example], max_length: int, pad: int, packed: bool = True) -> None:
        self.packed = packed
        bins = (
            fill_rows([len(example.ids) for example in examples], max_length)
            if packed
            else [[i] for i in range(len(examples))]
        )
        self.rows = [[examples[i] for i in row] for row in bins]
        self.max_length, self.pad = max_length, pad

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.rows[index]
        ids = [token for example in row for token in example.ids]
        # The first token of an example follows another example: nothing predicts it.
        labels = [label for example in row for label in [IGNORED, *example.labels[1:]]]
        positions = [place for example in row for place in range(len(example.ids))]
        left = self.max_length - len(ids)
        values = {"input_ids": ids + [self.pad] * left, "labels": labels + [IGNORED] * left}
        if self.packed:
            values["position_ids"] = positions + list(range(left))  # padding is one more example
        else:
            values["attention_mask"] = [1] * len(ids) + [0] * left
        return {key: torch.tensor(value) for key, value in values.items()}
