"""Name the formats that files of feedback have. It imports nothing, so that the command line can."""

from __future__ import annotations

from typing import Literal

__all__ = ["ExportFormat", "ImportFormat"]

ImportFormat = Literal[
    "items",
    "preference",
    "kto",
    "ratings",
    "argilla",
    "label-studio",
    "potato",
    "shp",
    "ultrafeedback",
    "oasst",
]
ExportFormat = Literal["preference", "kto", "ratings", "flags", "sft", "items", "argilla", "label-studio", "potato"]
