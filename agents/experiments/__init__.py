"""Run many trainings: comparisons, searches for settings, loops of feedback and RL."""
