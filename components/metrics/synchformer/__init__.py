"""Synchformer: how far picture and sound of a clip are apart, in seconds (DeSync)."""
