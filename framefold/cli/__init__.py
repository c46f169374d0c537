"""Commands that combine packages, and the argument parser."""
