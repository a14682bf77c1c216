"""Log-mel tokens: the audio encoder that needs no weights."""

from __future__ import annotations

import torch
from torch import Tensor

from components.codecs.no_autocast import no_autocast
from components.contracts import AudioEncoder, AudioFeatures
from components.errors import InputError


class LogMelEncoder(AudioEncoder):
    """Log-mel frames and their rise since the frame before, one token per hop.

    Args:
        sample_rate: rate the waveform must have.
        hop: samples between tokens (16 kHz and 320: 50 Hz, the rate of HuBERT features).
        num_mels: mel bands; tokens are twice as wide (level and rise).
        window: samples under each token.
    """

    filters: Tensor
    hann: Tensor

    def __init__(self, sample_rate: int = 16000, hop: int = 320, num_mels: int = 32, window: int = 400) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        self.sample_rate = sample_rate
        self.hop = hop
        self.window = window
        self.n_fft = 1 << (window - 1).bit_length()
        self.dim = 2 * num_mels
        with torch.device("cpu"):  # torchaudio looks at what it computed, which the meta device has not
            filters = melscale_fbanks(
                self.n_fft // 2 + 1, 50.0, sample_rate / 2, num_mels, sample_rate, "slaney", "slaney"
            )
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("hann", torch.hann_window(window), persistent=False)

    def forward(self, waveform: Tensor, sample_rate: int) -> AudioFeatures:
        """``[B, S]`` to tokens ``[B, 1 + S // hop, 2 num_mels]``; token j is centred at sample ``j * hop``.

        Raises:
            InputError: if the sample rate is not the one this encoder was built for.
        """
        if sample_rate != self.sample_rate:
            raise InputError(
                f"the log-mel encoder is built for {self.sample_rate} Hz but got audio at {sample_rate} Hz: "
                "set clip.sample_rate to match."
            )
        with no_autocast(waveform.device):
            spectrum = torch.stft(
                waveform.float(),
                self.n_fft,
                self.hop,
                self.window,
                self.hann,
                center=True,
                pad_mode="constant",
                return_complex=True,
            )
            power = spectrum.real.square() + spectrum.imag.square()
            level = (power.transpose(1, 2) @ self.filters).clamp_(min=1e-6).log() / 4 + 1
            # the rise alone: where a sound ends is no onset
            rise = (level - level.roll(1, dims=1)).clamp_(min=0)
            rise[:, 0] = 0
            tokens = torch.cat([level, rise], dim=-1)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return AudioFeatures(tokens, sample_rate / self.hop, mask, first_center_s=0.0)
