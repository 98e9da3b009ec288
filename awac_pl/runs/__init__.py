"""The run folder: one writer and one reader of each of its files."""
