"""Defenses that only appear robust, and the attacks that show it."""
