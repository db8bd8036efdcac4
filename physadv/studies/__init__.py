"""The classic experiments, each one command and one report."""
