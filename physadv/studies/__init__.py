"""Experiments that reproduce published claims, one module each."""
