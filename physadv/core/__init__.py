"""What every station stands on: types, errors, seeds, image and file I/O, and the sign faces drawn
by code."""
