"""Numbers from tensors and answers. No files, no models."""
