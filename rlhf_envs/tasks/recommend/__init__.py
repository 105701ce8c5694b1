"""Recommend films: name the best of some candidates to somebody whose liked films are given."""
