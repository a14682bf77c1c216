"""Noise levels."""
