"""Pre-training of an image encoder from click behaviour, and the export of its embeddings."""
