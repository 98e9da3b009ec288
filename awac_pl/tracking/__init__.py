"""The copy of a run folder in MLflow."""
