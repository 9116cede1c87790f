"""CTR models that use item embeddings, and the offline comparison that says whether they help."""
