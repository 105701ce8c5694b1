"""Complete held-out prompts, measure the completions, and attack policies and reward models."""
