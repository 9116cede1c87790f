"""Processes and precision."""
