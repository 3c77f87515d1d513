"""The report of one evaluated run."""
