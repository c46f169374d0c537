"""How weights and optimizer state are distributed over ranks."""
