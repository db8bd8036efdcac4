"""Live view of a running check: overlay, local web page, desktop window."""
