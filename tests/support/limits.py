"""Time limits of the tests."""

HANG = 900  # seconds after which a process is killed as hanging; beside eight busy processes, the slowest takes a third
