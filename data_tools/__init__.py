"""Logs and images in, datasets, shards and embedding tables out."""
