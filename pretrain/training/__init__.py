"""The training loop's parts: step, optimiser, journal, run folder."""
