"""Errors, files, tables, console and provenance: nothing here imports another package of the pipeline."""
