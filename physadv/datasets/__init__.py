"""Readers of data sets: class folders, idx, npz, GTSRB layout, zips of those."""
