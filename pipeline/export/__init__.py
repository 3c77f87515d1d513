"""The trained model for other programs: torch.export, ONNX, MONAI bundle, MLflow."""
