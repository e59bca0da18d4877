"""Trajectories on disk, as Minari keeps them, and as a `torch.utils.data.Dataset`."""
