"""Settings as frozen dataclasses, from which flags, YAML and keyword arguments derive. No torch."""
