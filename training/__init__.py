"""Training of compressors, and optionally LoRA, with a frozen host."""
