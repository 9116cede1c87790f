"""Measures that several packages take of clicks and embeddings, each written once."""
