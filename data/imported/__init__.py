"""Shards from the annotations and video files that people have."""
