"""Cameras, videos, streams and folders as sources of frames."""
