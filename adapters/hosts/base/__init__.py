"""What a video-LLM family declares about itself."""
