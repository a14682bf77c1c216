"""CycleSync: onsets of a sound against those of the sound inferred from the video."""
