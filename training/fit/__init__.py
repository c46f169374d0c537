"""The ``fit`` command: Lightning CLI, callbacks, progress, loggers."""
