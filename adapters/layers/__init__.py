"""``nn.Module``s shared by several methods."""
