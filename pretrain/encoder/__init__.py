"""The image encoder: its families, weights, depth and dropout."""
