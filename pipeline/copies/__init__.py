"""Copies: scans of two patients that show the same, whatever was done to one of them."""
