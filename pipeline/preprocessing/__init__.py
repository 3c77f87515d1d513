"""From raw scans or a published set to the example store."""
