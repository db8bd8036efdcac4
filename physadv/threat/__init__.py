"""What the attacker may do and wants: projections, constraints, objectives, criteria."""
