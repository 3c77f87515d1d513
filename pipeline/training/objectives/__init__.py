"""Objectives of training next to the labels: a teacher's answers, and features or pixels at positions."""
