"""Between a video file and frames with times."""
