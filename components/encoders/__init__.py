"""Audio and text encoders."""
