"""Weights on disk and on the hub: found, opened, fitted, identified, and written whole or not at all."""
