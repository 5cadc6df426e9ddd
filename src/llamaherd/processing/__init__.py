"""Turns many inputs into requests, and their results back."""
