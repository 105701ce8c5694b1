"""Check what outside programs do with our files, and what they do to us."""
