"""Bring the store's schema from revision to revision. `rlhf_envs.feedback.store.database` runs them."""
