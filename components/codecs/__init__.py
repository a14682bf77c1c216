"""Pixels and waveforms to latents and back."""
