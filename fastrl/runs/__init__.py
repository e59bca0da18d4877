"""Run folders: settings, checkpoints, logs, films, and what the terminal shows."""
