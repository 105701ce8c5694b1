"""Explain a score: which tokens earned it, and where the policy parts from its reference."""
