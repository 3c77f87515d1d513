"""The stages from raw scans to a report; ``python -m pipeline --help`` lists them."""
