"""Figures: lines and text as SVG files, images as PNG files."""
