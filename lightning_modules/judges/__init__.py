"""Training of the small models that judge: video to audio, SyncNet."""
