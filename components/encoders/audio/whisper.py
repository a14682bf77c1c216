"""Whisper's encoder: 50 tokens per second that know what is said."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from components.encoders.audio.frozen import FrozenAudioEncoder
from components.encoders.transformers_model import load_audio_model, load_feature_extractor, mel_filters
from components.weights.digests import Sha256
from components.weights.identity import inherit_identity
from components.weights.named_files import names_files

PUBLIC: dict[str, dict[str, Any]] = {
    f"openai/whisper-{size}": {
        "d_model": width,
        "encoder_layers": layers,
        "encoder_attention_heads": width // 64,
        "encoder_ffn_dim": 4 * width,
        "num_mel_bins": mels,
    }
    for size, width, layers, mels in (
        ("tiny", 384, 4, 80),
        ("base", 512, 6, 80),
        ("small", 768, 12, 80),
        ("medium", 1024, 24, 80),
        ("large-v2", 1280, 32, 80),
        ("large-v3", 1280, 32, 128),
    )
}
"""Public models, and where their config differs from transformers' defaults."""


@names_files(checkpoint=None)
class WhisperAudioEncoder(FrozenAudioEncoder):
    """The encoder of a Whisper model, frozen; sound at 16 kHz, at most 30 s.

    Whisper always hears 30 s: shorter sound is filled up with silence, and the tokens over that silence are cut off
    again. Token j is centred at ``320 j`` samples.

    Args:
        checkpoint: folder or hub repository.
        dtype: precision of the weights: float32, bfloat16 or float16. Tokens are float32 always.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if the checkpoint is absent, damaged or another model.
    """

    filters: Tensor
    hann: Tensor

    def __init__(
        self, checkpoint: str = "hf://openai/whisper-base", dtype: str = "float32", sha256: Sha256 = None
    ) -> None:
        super().__init__()
        self.model = load_audio_model(
            "whisper.modeling_whisper:WhisperEncoder",
            checkpoint,
            dtype,
            PUBLIC,
            inside=r"^(model\.)?encoder\.",
            sha256=sha256,
        )
        inherit_identity(self, self.model)
        extractor = load_feature_extractor("WhisperFeatureExtractor", checkpoint)
        self.n_fft, self.hop = extractor.n_fft, extractor.hop_length
        self.register_buffer("filters", mel_filters(extractor.mel_filters), persistent=False)
        self.register_buffer("hann", torch.hann_window(self.n_fft), persistent=False)
        config = self.model.config
        frames_per_token = self.model.conv1.stride[0] * self.model.conv2.stride[0]
        self.dim = config.d_model
        self.sample_rate = extractor.sampling_rate
        self.rate_hz = self.sample_rate / (self.hop * frames_per_token)
        self.first_center_s = 0.0
        self.max_samples = config.max_source_positions * frames_per_token * self.hop
        self.eval()

    def encode(self, waveform: Tensor) -> Tensor:
        """``[B, S]`` to ``[B, ceil(S / 320), dim]``."""
        # always the full 30 s: the encoder takes no other length
        mel = self.log_mel(functional.pad(waveform, (0, (self.max_samples or 0) - waveform.shape[1])))
        tokens: Tensor = self.model(mel.to(self.model.dtype)).last_hidden_state
        return tokens[:, : self.tokens_within(waveform.shape[1])]

    def log_mel(self, waveform: Tensor) -> Tensor:
        """``[B, S]`` to ``[B, mels, S // 160]``: log10 power, at most 8 below the clip's peak, shifted and scaled."""
        # Whisper drops the last frame
        spectrum = torch.stft(waveform, self.n_fft, self.hop, window=self.hann.float(), return_complex=True)[..., :-1]
        power = spectrum.real.square() + spectrum.imag.square()
        level = (self.filters.float().T @ power).clamp_(min=1e-10).log10()
        # 8 in log10 is 80 dB; (x + 4) / 4 as in Whisper's front end
        return level.maximum(level.amax(dim=(1, 2), keepdim=True) - 8).add(4).div(4)
