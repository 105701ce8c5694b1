"""Use a trained agent elsewhere: `rlhf serve`, the gateway before an engine (extra `serve`), and `rlhf export`."""
