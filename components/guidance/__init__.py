"""Guidance at sampling time."""
