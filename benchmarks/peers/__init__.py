"""Rivals on the same work as fastrl: `python -m benchmarks.peers --help`."""
