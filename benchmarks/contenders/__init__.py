"""What is measured side by side: this project (`ours`), the bare model (`floor`) and TRL's trainers (`trl`)."""

from .ours import Ours, Rows

__all__ = ["Ours", "Rows"]
