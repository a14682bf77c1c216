"""From recordings on disk to batches of clips: which clips, in which order, on which rank."""
