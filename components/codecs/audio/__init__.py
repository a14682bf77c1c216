"""Waveforms to latents and back."""
