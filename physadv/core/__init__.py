"""Types, errors, seeds, image and file I/O, tables and drawn sign faces that every room uses."""
