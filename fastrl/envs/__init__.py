"""Vector environments: EnvPool and gymnasium behind one interface, with next-step autoreset."""
