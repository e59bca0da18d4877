"""Learning evidence: trains presets over seeds, and reports what they reach."""
