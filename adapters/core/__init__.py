"""Video tokens, budgets, constructor parameters, and the registry of compressors."""
