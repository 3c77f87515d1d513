"""Attention maps: computing, storing, and drawing over the scans' own slices."""
