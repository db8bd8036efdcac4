"""Training to a certified bound, and the recipe that puts any defence, data set and architecture together."""
