"""Deterministic certificates: bounds on a network's margins over a ball of inputs."""
