"""Rows of an ablation that are no registered compressors: oracles, resized frames, fewer frames, and controls."""
