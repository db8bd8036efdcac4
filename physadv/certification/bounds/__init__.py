"""Deterministic certificates: bounds on a net's margins over a ball of inputs, in plain torch."""
