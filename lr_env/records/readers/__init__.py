"""Readers of the logs that other trackers wrote; one file for each format."""
