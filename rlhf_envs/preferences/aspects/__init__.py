"""Read what people said of several aspects of an answer, and fit a reward model to each."""
