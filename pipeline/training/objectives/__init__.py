"""Objectives of training next to the labels: a teacher's answers, its features at places, and hidden squares."""
