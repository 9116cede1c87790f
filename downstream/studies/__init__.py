"""Studies besides the comparison: the cascade, sharing between tasks and scenes, and retrieval."""
