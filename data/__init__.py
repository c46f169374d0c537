"""Videos with questions and evidence: generation, storage, loading and rendering."""
