"""Methods that reduce visual tokens only inside the language model, one per file."""
