"""A run's folder: written, read, found; checkpoints; trackers."""
