"""Test a printed sticker on camera frames, with clean and blank controls."""
