"""Results that are committed with the source, and the texts that are written from them."""
