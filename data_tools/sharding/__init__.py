"""Shards for pre-training: what goes into which, how they are written, and the index that describes them."""
