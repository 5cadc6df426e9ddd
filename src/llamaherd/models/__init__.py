"""Models: where files come from, chat templates, memory, and the `Model` class."""
