"""The rendered data sets: scenes, faces and sounds with known truth."""
