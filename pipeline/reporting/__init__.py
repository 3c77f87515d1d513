"""Reports: pages, figures and documents."""
