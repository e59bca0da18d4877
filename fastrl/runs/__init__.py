"""Run folders: settings, checkpoints, metrics, videos, and the progress line."""
