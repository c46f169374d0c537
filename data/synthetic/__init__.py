"""Long videos generated from a seed, with known evidence."""
