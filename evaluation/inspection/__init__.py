"""Inspection of one video: the tokens that a compressor keeps, and the answer of the host."""
