"""A run folder's copy in MLflow."""
