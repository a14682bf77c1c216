"""Spoken words to tokens."""
