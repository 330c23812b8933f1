"""Placement: what of each host is taken, and the one way to take more."""
