"""Hold what a stock SB3 algorithm is handed: environment, policy, KV cache, rollout buffer, KL penalty."""
