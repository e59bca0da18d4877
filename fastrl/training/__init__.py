"""The loop that trains any agent: player, trainer, records, tests."""
