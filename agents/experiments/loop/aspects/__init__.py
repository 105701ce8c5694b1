"""Ask about several aspects of an answer in the rounds of a loop, fit a model to each, and report them."""

from .report import aspect_cells

__all__ = ["aspect_cells"]
