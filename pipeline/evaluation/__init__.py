"""From a table of predictions to numbers, without torch."""
