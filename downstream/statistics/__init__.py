"""Metrics, and the intervals of differences between models."""
