"""Training of classifiers: one loop, training methods that differ in the loss, and recipes."""
