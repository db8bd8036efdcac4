"""Cameras, videos, streams and folders, and the check that runs on them."""
