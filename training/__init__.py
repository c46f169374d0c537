"""Training, ablation and export."""
