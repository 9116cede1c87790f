"""Embedding tables: item ids and vectors, their formats, and those of other programs."""
