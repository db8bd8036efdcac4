"""Threat models: norms, projections, constraints, losses, success criteria and patch goals."""
