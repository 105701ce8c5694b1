"""Learn from feedback in rounds: generate, ask, fit a reward model, train, evaluate."""
