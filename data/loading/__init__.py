"""Loading samples in a resumable order, over ranks and loader workers."""
