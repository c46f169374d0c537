"""Videos with questions and evidence: generated, stored, read and drawn."""
