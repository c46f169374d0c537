"""Long video that fits: what a training step keeps in memory."""
