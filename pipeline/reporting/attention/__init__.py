"""Figures and page of the attention stage."""
