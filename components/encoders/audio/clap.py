"""CLAP's audio tower: sound events in the space of their descriptions, a few tokens per second."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from components.encoders.audio.frozen import FrozenAudioEncoder
from components.encoders.audio.spectrogram_transformer import check_frequency
from components.encoders.transformers_model import load_audio_model, load_feature_extractor, mel_filters
from components.errors import InputError
from components.weights.digests import Sha256
from components.weights.identity import inherit_identity
from components.weights.named_files import names_files

PUBLIC: dict[str, dict[str, Any]] = {
    "laion/clap-htsat-unfused": {},
    "laion/clap-htsat-fused": {"enable_fusion": True, "fusion_type": "aff_2d"},
}
"""Public models, and where their config differs from transformers' defaults."""


@names_files(checkpoint=None)
class ClapAudioEncoder(FrozenAudioEncoder):
    """The last grid of CLAP's Swin transformer laid out in time, frozen; sound at 48 kHz, at most 10 s.

    The public models fold 10 s into 32 tokens (3.2 Hz) of two rows of frequencies. Shorter sound is repeated to fill
    10 s, as in CLAP's training, and tokens centred beyond its end are cut off again.

    Args:
        checkpoint: folder or hub repository.
        frequency: ``mean`` averages the rows of frequencies; ``stack`` puts them behind each other in the channels.
        dtype: precision of the weights: float32, bfloat16 or float16. Tokens are float32 always.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if an argument is unknown, or the checkpoint is absent, damaged or another model.
    """

    filters: Tensor
    hann: Tensor

    def __init__(
        self,
        checkpoint: str = "hf://laion/clap-htsat-unfused",
        frequency: str = "mean",
        dtype: str = "float32",
        sha256: Sha256 = None,
    ) -> None:
        super().__init__()
        check_frequency(frequency)
        self.frequency = frequency
        # a whole CLAP keeps the audio tower under this prefix
        self.model = load_audio_model(
            "ClapAudioModel", checkpoint, dtype, PUBLIC, inside=r"^audio_model\.(?=audio_)", sha256=sha256
        )
        inherit_identity(self, self.model)
        extractor = load_feature_extractor("ClapFeatureExtractor", checkpoint)
        if extractor.padding not in ("repeatpad", "pad"):
            raise InputError(f"'{checkpoint}' pads by {extractor.padding!r}: only repeatpad and pad are supported.")
        self.repeats = extractor.padding == "repeatpad"
        self.fused = self.model.config.enable_fusion
        fused_front = extractor.truncation == "fusion"
        self.sample_rate, self.hop = extractor.sampling_rate, extractor.hop_length
        self.n_fft, self.max_samples = extractor.fft_window_size, extractor.nb_max_samples
        # CLAP has two filter banks: HTK with fusion, Slaney without
        filters = extractor.mel_filters if fused_front else extractor.mel_filters_slaney
        self.register_buffer("filters", mel_filters(filters), persistent=False)
        self.register_buffer("hann", torch.hann_window(self.n_fft), persistent=False)
        self._lay_out_in_time()
        self.eval()

    def _lay_out_in_time(self) -> None:
        """Width, rate and first centre of the tokens.

        The spectrogram's frames are stretched to the width of the picture, ends on ends; every token is the middle of
        its share of that width.
        """
        config = self.model.config
        side, shrink = config.spec_size, config.patch_stride[1] * 2 ** (len(config.depths) - 1)
        # the mel picture is cut into pieces that are stacked to a square
        folds = side // config.num_mel_bins
        rows = side // (config.patch_stride[0] * 2 ** (len(config.depths) - 1)) // folds
        width = self.model.audio_encoder.num_features
        self.dim = width * (rows if self.frequency == "stack" else 1)
        frames = (self.max_samples or 0) // self.hop + 1
        frames_per_pixel = (frames - 1) / (side * folds - 1)
        self.rate_hz = self.sample_rate / (self.hop * frames_per_pixel * shrink)
        self.first_center_s = (shrink - 1) / 2 * frames_per_pixel * self.hop / self.sample_rate

    def encode(self, waveform: Tensor) -> Tensor:
        """``[B, S]`` to ``[B, N, dim]``."""
        mel = self.log_mel(waveform)[:, None].to(self.model.dtype)
        longer = torch.zeros(len(mel), 1, dtype=torch.bool, device=mel.device)
        # four views in a fused model; a short sound is the same in all
        picture = mel.expand(-1, 4, -1, -1) if self.fused else mel
        # [B, C, rows, N] to [B, N, C, rows]
        grid = self.model(picture, is_longer=longer if self.fused else None).last_hidden_state.permute(0, 3, 1, 2)
        grid = grid[:, : self.tokens_within(waveform.shape[1])]
        result: Tensor = grid.mean(dim=-1) if self.frequency == "mean" else grid.flatten(2)
        return result

    def log_mel(self, waveform: Tensor) -> Tensor:
        """``[B, S]`` to decibels of mel power ``[B, frames, mels]`` of a full-length sound."""
        length = self.max_samples or 0
        if self.repeats:
            waveform = waveform.repeat(1, length // waveform.shape[1])
        full = functional.pad(waveform, (0, length - waveform.shape[1]))
        # as in CLAP's front end: power, not magnitude, in decibels
        spectrum = torch.stft(full, self.n_fft, self.hop, window=self.hann.float(), return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power.mT @ self.filters.float()).clamp_(min=1e-10).log10() * 10
