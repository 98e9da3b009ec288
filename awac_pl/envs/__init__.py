"""Tasks, and episodes in them: run, rendered, shown."""
