"""Compressors compared at equal budgets on held-out videos."""
