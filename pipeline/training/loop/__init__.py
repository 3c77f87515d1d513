"""The training loop: no paths, no records, one device or many."""
