"""The model card and the CLAIM checklist."""
