"""Figures: pure functions from labels and scores to numbers, and their intervals."""
