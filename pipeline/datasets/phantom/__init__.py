"""Synthetic knees."""
