"""The commands `lr-env forecast ...`."""
