"""CTR models, one file each (``registry`` lists them)."""
