"""Training batches and losses."""
