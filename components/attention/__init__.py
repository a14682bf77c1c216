"""Attention layers and rotary positions."""
