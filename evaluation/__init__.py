"""What a compressor keeps, what it costs, and what the host answers."""
