"""Commands that combine several packages, and the argument parser."""
