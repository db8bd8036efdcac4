"""Simulation of printing and filming. It imports only core, so that it can contradict EOT."""
