"""physadv: physical-world adversarial robustness and photo privacy."""

__version__ = "0.1.0"
