"""From a training checkpoint to an adapter folder."""
