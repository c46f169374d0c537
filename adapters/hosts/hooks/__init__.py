"""Hooks on a transformers model, and their removal."""
