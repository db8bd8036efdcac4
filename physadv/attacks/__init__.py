"""The loop, its updates, and the named recipes."""
