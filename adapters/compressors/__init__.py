"""Compression methods, one per file. Every module of this folder is imported, so a new file registers itself."""
