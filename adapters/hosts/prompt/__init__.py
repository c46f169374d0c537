"""Shorten a prompt with videos."""
