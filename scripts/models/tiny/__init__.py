"""Make the small models: "tiny", "tiny-reward" and "tiny-vision"."""
