"""Several trainings put together: cross-validation and the leak study."""
