"""AST, the audio spectrogram transformer: sound events on patches of a mel spectrogram."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from components.encoders.audio.frozen import FrozenAudioEncoder
from components.encoders.transformers_model import load_audio_model, load_feature_extractor
from components.errors import InputError
from components.weights.digests import Sha256
from components.weights.identity import inherit_identity
from components.weights.named_files import names_files

FREQUENCIES = ("mean", "stack")
PUBLIC: dict[str, dict[str, Any]] = {"MIT/ast-finetuned-audioset-10-10-0.4593": {}}
"""Public models, and where their config differs from transformers' defaults."""

_WINDOW, _HOP = 400, 160  # samples of Kaldi's 25 ms frames and between them


@names_files(checkpoint=None)
class SpectrogramTransformerEncoder(FrozenAudioEncoder):
    """AST's patches laid out in time, frozen; sound at 16 kHz, at most 10.255 s with the public model.

    Patches are 16 x 16 (mel bands x frames of 10 ms) every 10 bands and 10 frames: 12 rows of patches at 10 Hz. Token t
    is centred at the middle of its patch, ``0.0875 + 0.1 t`` s. Shorter sound is filled up as in AST's training, and
    tokens centred beyond its end are cut off again.

    Args:
        checkpoint: folder or hub repository.
        frequency: ``mean`` averages the rows of patches; ``stack`` puts them behind each other in the channels.
        dtype: precision of the weights: float32, bfloat16 or float16. Tokens are float32 always.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if an argument is unknown, or the checkpoint is absent, damaged or another model.
    """

    min_samples = _WINDOW

    def __init__(
        self,
        checkpoint: str = "hf://MIT/ast-finetuned-audioset-10-10-0.4593",
        frequency: str = "mean",
        dtype: str = "float32",
        sha256: Sha256 = None,
    ) -> None:
        super().__init__()
        check_frequency(frequency)
        self.frequency = frequency
        self.model = load_audio_model("ASTModel", checkpoint, dtype, PUBLIC, sha256=sha256)
        inherit_identity(self, self.model)
        extractor = load_feature_extractor("ASTFeatureExtractor", checkpoint)
        self.mean = float(extractor.mean) if extractor.do_normalize else 0.0
        # twice the deviation, as AST divides
        self.scale = 2 * float(extractor.std) if extractor.do_normalize else 1.0
        config = self.model.config
        self.num_frames, self.num_mels = config.max_length, config.num_mel_bins
        self.num_rows = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        self.dim = config.hidden_size * (self.num_rows if frequency == "stack" else 1)
        self.rate_hz = self.sample_rate / (_HOP * config.time_stride)
        self.first_center_s = ((config.patch_size - 1) / 2 * _HOP + _WINDOW / 2) / self.sample_rate
        # exactly as many samples as fill the frames the model has positions for
        self.max_samples = (self.num_frames - 1) * _HOP + _WINDOW
        self.eval()

    def encode(self, waveform: Tensor) -> Tensor:
        """``[B, S]`` to ``[B, N, dim]``."""
        patches = self.model(self.log_mel(waveform).to(self.model.dtype)).last_hidden_state[:, 2:]  # class tokens first
        # [B, rows, N, C]: frequency-major, as AST lays its patches
        rows = patches.unflatten(1, (self.num_rows, -1))[:, :, : self.tokens_within(waveform.shape[1])]
        result: Tensor = rows.mean(dim=1) if self.frequency == "mean" else rows.transpose(1, 2).flatten(2)
        return result

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Kaldi's log mel energies ``[B, frames, mels]``, zeros behind the sound, then normalised."""
        from torchaudio.compliance.kaldi import fbank

        bands = [
            # clip by clip: Kaldi's front end takes no batch
            fbank(clip[None], sample_frequency=self.sample_rate, window_type="hanning", num_mel_bins=self.num_mels)
            for clip in waveform
        ]
        mel = torch.stack(bands)
        return (functional.pad(mel, (0, 0, 0, self.num_frames - mel.shape[1])) - self.mean) / self.scale


def check_frequency(frequency: str) -> None:
    """Refuse what is not in `FREQUENCIES`.

    Raises:
        InputError: if it is not.
    """
    if frequency not in FREQUENCIES:
        raise InputError(f"frequency is {frequency!r}: choose from {', '.join(FREQUENCIES)}.")
