"""Gradient masking: defenses that hide gradients, and the attacks that break each of them."""
