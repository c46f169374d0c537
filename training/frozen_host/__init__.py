"""The host that a compressor is trained against: located, loaded and queried."""
