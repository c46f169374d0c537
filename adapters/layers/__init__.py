"""``nn.Module``s that several methods share."""
