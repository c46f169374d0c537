"""Long videos spliced from short annotated clips, with questions and known evidence."""
