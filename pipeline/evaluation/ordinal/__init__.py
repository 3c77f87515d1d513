"""Grades: scores that count how far apart label and prediction are, cut points, and a baseline with an order."""
