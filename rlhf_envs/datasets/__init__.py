"""Load data: named corpora, the bundled samples and files of your own."""

from .corpora import CORPORA, Document, load_corpus, split_of
from .loading import BUNDLED, Data, load_rows
from .splits import SPLITS, MissingSplitError, asked_key, check_split, prompt_key, split_name

__all__ = [
    "BUNDLED",
    "CORPORA",
    "SPLITS",
    "Data",
    "Document",
    "MissingSplitError",
    "asked_key",
    "check_split",
    "load_corpus",
    "load_rows",
    "prompt_key",
    "split_name",
    "split_of",
]
