"""Tuners on many tasks of a family: how good their planners are after no run, one, two and more."""
