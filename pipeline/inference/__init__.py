"""From a checkpoint and files to probabilities."""
