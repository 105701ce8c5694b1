"""Simulate annotators, who answer the same items as people, through the same store."""

from .annotators import Scorer, SimulatedAnnotator, annotate, simulated_crowd

__all__ = ["Scorer", "SimulatedAnnotator", "annotate", "simulated_crowd"]
