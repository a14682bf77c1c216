"""Encoding what never changes once: clips by frozen codecs and encoders, before a training and in place of them."""
