"""What all frozen audio encoders share: evaluation mode for good, one sample rate, a time axis from the first token."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import torch
from torch import Tensor

from components.codecs.no_autocast import no_autocast
from components.contracts import AudioEncoder, AudioFeatures
from components.errors import InputError


class FrozenAudioEncoder(AudioEncoder):
    """Turns a waveform into tokens without gradients, without autocast and always in evaluation mode.

    Subclasses set the attributes and implement `encode`. A clip's samples are all real sound, so every token is; what
    an encoder has to add for itself (Whisper's 30 s) is cut off again.

    Attributes:
        dim: width of the tokens.
        sample_rate: rate the waveform must have.
        rate_hz: tokens per second.
        first_center_s: time of the centre of token 0.
        min_samples: samples of the shortest sound that makes a token.
        max_samples: samples of the longest sound, or None if there is no limit.
    """

    sample_rate: int = 16000
    rate_hz: float
    first_center_s: float
    min_samples: int = 1
    max_samples: int | None = None

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: no dropout, LayerDrop or SpecAugment whatever the trainer asks for."""
        return super().train(False)

    @abstractmethod
    def encode(self, waveform: Tensor) -> Tensor:
        """float32 ``[B, S]`` at ``sample_rate`` to tokens ``[B, N, dim]`` of any precision."""

    @torch.no_grad()
    def forward(self, waveform: Tensor, sample_rate: int) -> AudioFeatures:
        """``[B, S]`` in [-1, 1] to float32 tokens ``[B, N, dim]``, all of them real sound.

        Raises:
            InputError: if the sample rate or the length cannot be used.
        """
        name, samples = type(self).__name__, waveform.shape[-1]
        if sample_rate != self.sample_rate:
            raise InputError(
                f"{name} takes {self.sample_rate} Hz but got audio at {sample_rate} Hz: "
                f"set clip.sample_rate to {self.sample_rate}."
            )
        if samples < self.min_samples:
            raise InputError(
                f"{name} needs at least {self.min_samples / sample_rate:.5g} s of sound for one token but got "
                f"{samples / sample_rate:.5g} s: give longer clips."
            )
        if self.max_samples is not None and samples > self.max_samples:
            raise InputError(
                f"{name} hears at most {self.max_samples / sample_rate:.5g} s but got {samples / sample_rate:.5g} s: "
                "give shorter clips."
            )
        with no_autocast(waveform.device):
            tokens = self.encode(waveform.float()).float()
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return AudioFeatures(tokens, self.rate_hz, mask, self.first_center_s)

    def tokens_within(self, samples: int) -> int:
        """How many tokens have their centre within ``samples`` samples, at least one."""
        inside = (samples / self.sample_rate - self.first_center_s) * self.rate_hz
        # ceil: a centre exactly at the end lies beyond it
        return max(1, -int(-inside // 1))


def zero_mean_unit_variance(waveform: Tensor) -> Tensor:
    """Every row of ``[B, S]`` shifted and scaled as speech models are trained on (variance plus 1e-7)."""
    variance, mean = torch.var_mean(waveform, dim=-1, correction=0, keepdim=True)
    return (waveform - mean) * (variance + 1e-7).rsqrt()
