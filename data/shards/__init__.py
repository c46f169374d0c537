"""Samples as webdataset shards: written, indexed, checked and read."""
