"""Public benchmarks through lmms-eval."""
