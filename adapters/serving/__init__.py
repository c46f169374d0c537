"""Compressors inside serving engines."""
