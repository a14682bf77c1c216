"""Training clips that were encoded once: what is kept of them, on disk or in an object store, and how it is read."""
