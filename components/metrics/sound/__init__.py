"""How good a sound is, and how near to the real one and to its caption: FD and FAD features, KL, CLAP, aesthetics."""
