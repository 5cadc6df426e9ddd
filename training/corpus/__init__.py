"""Deterministic generator of the demo model's training text."""
