"""Forms: how item embeddings become inputs of a CTR model, one file each (``registry`` lists them)."""
