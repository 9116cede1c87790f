"""Shards to batches: read, transformed and collated, each distinct picture decoded once."""
