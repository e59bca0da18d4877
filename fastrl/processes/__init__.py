"""Processes of a run: devices, ranks, collectives, launching, heartbeats, signals."""
