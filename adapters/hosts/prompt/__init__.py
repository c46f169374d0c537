"""From a prompt with videos to the shorter prompt."""
