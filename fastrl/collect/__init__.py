"""The command that plays episodes with a policy and writes them to a dataset."""
