"""Models under test: classifiers, detectors, and the registry of names to cards."""
