"""Adapter folders, on disk and on the Hub."""
