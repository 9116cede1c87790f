"""The dataset folder: its schema, and how it is written from a log, an item list and pictures."""
