"""Measure what `rlhf_envs.privacy` finds in texts, by language and kind: `python -m benchmarks.masking`."""
