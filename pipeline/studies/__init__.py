"""Several trainings put together: cross-validation, the leak study and the learning curve."""
