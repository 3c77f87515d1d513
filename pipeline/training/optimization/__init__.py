"""The update of the weights: optimizers, learning-rate schedules and the average of the weights."""
