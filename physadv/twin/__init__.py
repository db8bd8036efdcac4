"""The print-and-photograph simulation; it stands on core/ alone, so that it can contradict scene/."""
