"""Settings as frozen dataclasses: flags, saved YAML and keyword arguments all come from them. No torch is imported here."""
