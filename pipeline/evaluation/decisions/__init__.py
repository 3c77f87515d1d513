"""Decisions with a model: calibration, when to decline an answer, thresholds and their benefit."""
