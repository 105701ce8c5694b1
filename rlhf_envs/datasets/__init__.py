"""Load data: named corpora, the bundled samples and files of your own."""

from .corpora import CORPORA, Document, load_corpus, split_of
from .loading import BUNDLED, load_rows

__all__ = ["BUNDLED", "CORPORA", "Document", "load_corpus", "load_rows", "split_of"]
