"""Checks of a cloak: match rates of recognizers before and after, and the verdict made of them."""
