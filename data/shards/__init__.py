"""Samples in webdataset shards: writing, indexing, checking and reading."""
