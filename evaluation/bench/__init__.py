"""Single components timed."""
