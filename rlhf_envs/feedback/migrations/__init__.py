"""The store's schema, revision by revision; `rlhf_envs.feedback.database` runs them."""
