"""Training methods: each provides the loss of the training loop, one family a module."""
