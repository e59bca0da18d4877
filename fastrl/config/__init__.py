"""Settings as frozen dataclasses; flags, YAML and keyword arguments come from them. No torch."""
