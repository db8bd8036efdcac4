"""Rows, intervals and the evaluations that distrust themselves."""
