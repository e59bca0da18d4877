"""Vector environments: EnvPool and gymnasium brought to one rule, next-step autoreset."""
