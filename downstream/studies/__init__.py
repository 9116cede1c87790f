"""Studies beside the comparison: the cascade, and sharing between tasks and scenes."""
