"""Samples as pictures."""
