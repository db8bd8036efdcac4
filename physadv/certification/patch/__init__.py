"""Certificates against every patch up to a given size."""
