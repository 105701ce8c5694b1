"""Measure what agents learn on every task."""
