"""What a reader sees: pages, figures and documents."""
