"""MLflow runs and TensorBoard's event files."""
