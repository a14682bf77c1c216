"""An audio codec that needs no training and whose latents a small model can learn: log-mel levels, phases made up.

Griffin and Lim, "Signal Estimation from Modified Short-Time Fourier Transform" (1984); Perraudin, Balazs and
Soendergaard, "A Fast Griffin-Lim Algorithm" (2013).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from components.codecs.latent_statistics import ChannelNormalisation
from components.codecs.no_autocast import no_autocast
from components.contracts import AudioCodec
from components.errors import InputError
from components.weights.named_files import names_files, of_no_consequence

_LOUDEST = math.log(2.0)  # 6 dB above full scale, in natural logarithms


@names_files("statistics")
@of_no_consequence("gate_db", "iterations", "momentum")
class LogMelCodec(AudioCodec):
    """``frames_per_latent`` log-mel frames side by side are one latent.

    Encoding keeps when and in which bands there is sound, and drops phases; decoding spreads every mel band over its
    frequencies and finds phases that agree with each other, always the same ones for the same latents. Frames are
    centred as the contract wants: latent j stands for its own samples.

    Args:
        sample_rate: rate the waveform must have.
        latent_hop: samples per latent (16 kHz and 512: 31.25 Hz).
        num_mels: mel bands; latents are ``num_mels * frames_per_latent`` wide.
        frames_per_latent: mel frames per latent: finer in time, wider.
        window: samples under each frame, a multiple of the frames' hop of at least twice its size.
        floor_db: lowest level latents can tell, in dB re a sine of full scale.
        gate_db: what is decoded within this many dB of the floor is silence: generated latents are noisy, and noise
            where nothing sounds would be heard as onsets.
        iterations: rounds of Griffin and Lim's algorithm when decoding.
        momentum: acceleration of these rounds, below 1.
        statistics: file of `LatentStatistics` of the training set; None maps silence to -1 and full scale to 5,
            which suits clips that are silent half of the time.

    Raises:
        InputError: if an argument cannot be used.
    """

    filters: Tensor
    spread: Tensor
    hann: Tensor
    phases: Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        latent_hop: int = 512,
        num_mels: int = 32,
        frames_per_latent: int = 2,
        window: int = 512,
        floor_db: float = -80.0,
        gate_db: float = 10.0,
        iterations: int = 8,
        momentum: float = 0.9,
        statistics: str | Path | None = None,
    ) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        for name, value in (("frames_per_latent", frames_per_latent), ("num_mels", num_mels)):
            if value < 1:
                raise InputError(f"{name} is {value}, but must be at least 1")
        if latent_hop < 1 or latent_hop % (2 * frames_per_latent):
            raise InputError(
                f"latent_hop is {latent_hop}, but must be a multiple of {2 * frames_per_latent} (an even hop)"
            )
        self.sample_rate = sample_rate
        self.latent_hop = latent_hop
        self.latent_channels = num_mels * frames_per_latent
        self.frames_per_latent = frames_per_latent
        self.hop = latent_hop // frames_per_latent
        if window % self.hop or window < 2 * self.hop:
            raise InputError(
                f"window is {window}, but must be a multiple of the frames' hop {self.hop}, at least twice"
            )
        self.window = window
        self.floor = math.log(10) * floor_db / 20  # dB to natural logarithm of the magnitude
        self.gate = math.log(10) * (floor_db + gate_db) / 20
        self.iterations = iterations
        self.momentum = momentum
        bins = window // 2 + 1
        with torch.device("cpu"):  # torchaudio looks at what it computed, which the meta device has not
            filters = melscale_fbanks(bins, 0.0, sample_rate / 2, num_mels, sample_rate, None, "slaney")
        filters = filters / filters.sum(dim=0).clamp(min=1e-8)  # each band is a mean over its frequencies
        # fixed phases, so that decoding is a function of the latents
        draw = torch.Generator().manual_seed(0)
        phases = 2 * math.pi * torch.rand(bins, 1, generator=draw, device="cpu")
        self.register_buffer("filters", filters, persistent=False)
        # pseudo-inverse: of all spectra with these mel levels the smallest
        self.register_buffer("spread", torch.linalg.pinv(filters), persistent=False)
        self.register_buffer("hann", torch.hann_window(window), persistent=False)
        self.register_buffer("phases", phases, persistent=False)
        self.latent_identity = (
            f"log-mel {num_mels}x{frames_per_latent} of {latent_hop} samples, window {window}, at {sample_rate} Hz, "
            f"floor {floor_db} dB"
        )
        # mean and deviation are 5/6 and 1/6 of the floor: silence becomes -1, full scale 5
        if statistics is None:
            ones = torch.ones(self.latent_channels)
            self.normalisation = ChannelNormalisation(ones * self.floor * 5 / 6, ones * -self.floor / 6)
        else:
            self.normalisation = ChannelNormalisation.from_file(statistics, self.latent_channels, self.latent_identity)

    def encode(self, waveform: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """``[B, S]`` to ``[B, C, S // latent_hop]``; deterministic."""
        del generators
        count = waveform.shape[-1] // self.latent_hop
        # centred on its own hop: the window reaches equally far to both sides
        margin = (self.window - self.hop) // 2
        with no_autocast(waveform.device):
            padded = F.pad(waveform[:, : count * self.latent_hop].float(), (margin, margin))
            spectrum = torch.stft(padded, self.window, self.hop, window=self.hann, center=False, return_complex=True)
            magnitude = spectrum.abs() * (2 / self.hann.sum())  # a full-scale sine has 1
            level = (magnitude.transpose(1, 2) @ self.filters).clamp(min=math.exp(self.floor)).log()  # [B, K, mels]
        # [B, N, frames x mels]: the frames of a latent side by side
        stacked = level.unflatten(1, (count, self.frames_per_latent)).flatten(2)
        result: Tensor = self.normalisation(stacked.transpose(1, 2))
        return result

    def decode(self, latents: Tensor) -> Tensor:
        """``[B, C, N]`` to ``[B, N * latent_hop]`` in [-1, 1]."""
        level = self.normalisation.inverse(latents).transpose(1, 2)
        level = level.unflatten(2, (self.frames_per_latent, -1)).flatten(1, 2)  # [B, K, mels]
        with no_autocast(latents.device):
            # no sound is louder than full scale, whatever a generator says
            mel = level.clamp(max=_LOUDEST).exp() - math.exp(self.gate)
            magnitude = (mel.clamp(min=0.0) @ self.spread).clamp(min=0.0).transpose(1, 2) * (self.hann.sum() / 2)
            return self._sound_of(magnitude).clamp(-1.0, 1.0)

    def _sound_of(self, magnitude: Tensor) -> Tensor:
        """A waveform ``[B, K * hop]`` whose spectrogram is close to ``magnitude`` ``[B, bins, K]``."""
        magnitude = F.pad(magnitude, (1, 1))  # a silent frame before and after: its centres lie outside the sound
        frames = magnitude.shape[-1]
        samples = (frames - 1) * self.hop
        bins = torch.arange(len(self.phases), device=magnitude.device)[:, None]
        time = torch.arange(frames, device=magnitude.device)
        # the phases of steady tones at the bins' frequencies
        phases = self.phases + 2 * math.pi * ((bins * self.hop * time) % self.window) / self.window
        spectrum = torch.polar(magnitude, phases.expand_as(magnitude))
        # the fast variant: what consistency changed, carried on with momentum (Perraudin et al., 2013)
        before = torch.zeros_like(spectrum)
        for _ in range(self.iterations):
            wave = torch.istft(spectrum, self.window, self.hop, window=self.hann, length=samples)
            projected = torch.stft(
                wave, self.window, self.hop, window=self.hann, pad_mode="constant", return_complex=True
            )
            ahead = projected - self.momentum / (1 + self.momentum) * before
            before = projected
            # only the phases are kept, the magnitudes are given
            spectrum = magnitude * ahead / ahead.abs().clamp(min=1e-12)
        wave = torch.istft(spectrum, self.window, self.hop, window=self.hann, length=samples)
        # the silent frames go again, and centres return to the middle of their hops
        return wave[:, self.hop // 2 : self.hop // 2 + (frames - 2) * self.hop]
