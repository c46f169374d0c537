"""Long procedural videos, generated from a seed, with questions and known evidence."""
