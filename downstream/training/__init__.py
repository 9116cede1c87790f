"""Training of one CTR model: epochs, checkpoints, scores, runs."""
