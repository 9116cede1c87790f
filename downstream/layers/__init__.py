"""Layers that models and forms share."""
