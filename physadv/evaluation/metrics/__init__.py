"""Confidence intervals and detection metrics."""
