"""A policy outside of training: export, contract, runner, MLflow model."""
