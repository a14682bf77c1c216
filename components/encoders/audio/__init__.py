"""Sounds to tokens."""
