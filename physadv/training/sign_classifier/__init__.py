"""Train the built-in traffic-sign classifier."""
