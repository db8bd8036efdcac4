"""Certificates of robustness: bound propagation, randomized smoothing, patch masking."""
