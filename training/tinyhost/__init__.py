"""The embedded host, trained from scratch."""
