"""LoRA of the host, saved with a compressor in one folder."""
