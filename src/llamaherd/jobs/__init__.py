"""Jobs: a table in, a table out, with every finished row on the disk."""
