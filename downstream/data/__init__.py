"""CTR data: arrays on disk, batches, segments of a split."""
