"""One video: the tokens that were kept, and what the host answers."""
