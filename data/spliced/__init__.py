"""Long videos spliced from short annotated clips."""
