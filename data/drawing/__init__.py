"""Rendering a sample as a picture."""
