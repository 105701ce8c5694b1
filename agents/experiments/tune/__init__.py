"""Search the settings of an algorithm with Optuna."""
