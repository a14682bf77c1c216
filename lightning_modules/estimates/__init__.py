"""What an experiment would take, counted before anything is loaded: memory, FLOPs, hours, storage, traffic."""
