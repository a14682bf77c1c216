"""AV-Align: onsets of the sound against peaks of the picture's motion."""
