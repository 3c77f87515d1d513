"""Several trainings put together: cross-validation, the leak study, the learning curve and tuning."""
