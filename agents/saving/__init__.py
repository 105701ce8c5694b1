"""Save and load agents as safetensors and JSON, never pickle."""
