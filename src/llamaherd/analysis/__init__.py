"""Data analysis: quick answers, comparing models, agreement, and a report of it."""
