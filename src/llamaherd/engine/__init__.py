"""Continuous batching: a pure scheduler and the one thread that drives it."""
