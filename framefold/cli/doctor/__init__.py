"""The ``doctor`` command."""
