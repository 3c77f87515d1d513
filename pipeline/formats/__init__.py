"""File formats, one module each; hostile input is refused."""
