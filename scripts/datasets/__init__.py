"""Draw the bundled samples of `rlhf_envs/datasets/data` from their sources: one module per source."""
