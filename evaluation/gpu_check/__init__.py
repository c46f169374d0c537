"""What only a GPU can measure, in one short run."""
