"""What recordings are like, before anything is generated."""
