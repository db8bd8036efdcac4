"""Color charts and ChArUco boards: print, photograph, fit a profile."""
