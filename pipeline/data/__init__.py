"""Sources, the example store, splits by patient, the leak certificate and batches."""
