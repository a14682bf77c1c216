"""Transformers: one folder for each model, and beside them what several share."""
