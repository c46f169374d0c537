"""The state of a run on disk: complete, verified and resumable."""
