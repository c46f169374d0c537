"""Fits a compressor, and optionally LoRA, in front of a frozen host."""
