"""Synthetic long video, shards and streams."""
