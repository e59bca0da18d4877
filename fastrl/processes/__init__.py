"""This process among others: devices, ranks, collectives, launching, heartbeat, signals."""
