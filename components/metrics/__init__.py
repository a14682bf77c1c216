"""Synchronisation and quality metrics."""
