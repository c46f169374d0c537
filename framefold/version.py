"""Version of framefold, in a file of its own so that every folder may import it."""

__version__ = "0.1.0"
