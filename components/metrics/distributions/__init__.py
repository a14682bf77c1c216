"""How far sets of clips are from each other: distances of features, divergences of class probabilities."""
