"""Studies beside the comparison: the cascade, sharing between tasks and scenes, and retrieval."""
