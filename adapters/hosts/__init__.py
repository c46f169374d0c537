"""Attaching a compressor to an unmodified transformers video-LLM."""
