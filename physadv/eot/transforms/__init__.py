"""Effects between print and model, one file each."""
