"""The print-and-photograph simulation; imports core alone, so that it can contradict scene."""
