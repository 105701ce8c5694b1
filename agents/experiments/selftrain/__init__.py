"""Train a model on its own best answers, in rounds."""
