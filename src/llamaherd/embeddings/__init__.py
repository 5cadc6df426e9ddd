"""Texts as vectors, and ranking by them."""
