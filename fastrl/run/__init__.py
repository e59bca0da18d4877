"""A run's folder and what the terminal shows: config, checkpoints, metrics, progress."""
