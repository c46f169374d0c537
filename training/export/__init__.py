"""Export: turn a training checkpoint into an adapter folder."""
