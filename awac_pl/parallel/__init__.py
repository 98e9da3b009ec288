"""Worker processes, and the ranks of a training."""
