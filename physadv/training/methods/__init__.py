"""Training to a certified bound, and the recipe that puts any defense, data set and architecture
together."""
