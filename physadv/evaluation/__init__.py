"""Robust and certified accuracy, their self-checks, intervals and detection metrics."""
