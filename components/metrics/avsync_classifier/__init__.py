"""RelSync and AlignSync: ASVA's classifier of whether picture and sound belong together."""
