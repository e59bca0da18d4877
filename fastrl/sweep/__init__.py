"""Sweeps: many runs with different settings, as processes of their own, and what comes of them."""
