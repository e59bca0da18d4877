"""The training loop for all agents: trainer, player, records, evaluation."""
