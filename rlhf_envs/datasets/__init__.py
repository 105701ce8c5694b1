"""Data: named corpora, the bundled samples, and the loading of the user's own files."""

from .corpora import CORPORA, Document, load_corpus, split_of
from .loading import BUNDLED, load_rows

__all__ = ["BUNDLED", "CORPORA", "Document", "load_corpus", "load_rows", "split_of"]
