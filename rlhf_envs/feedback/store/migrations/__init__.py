"""The store's schema, revision by revision; `rlhf_envs.feedback.store.database` runs them."""
