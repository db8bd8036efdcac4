"""Face detectors and face recognizers."""
