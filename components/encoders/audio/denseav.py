"""DenseAV's audio branch: a HuBERT fine-tuned to find sounding things in pictures, the encoder of Syncphony."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.encoders.audio.denseav_aligner import Aligner
from components.encoders.audio.denseav_checkpoint import PUBLIC_NAMES, DenseAVCheckpoint, read_checkpoint
from components.encoders.audio.frozen import FrozenAudioEncoder, zero_mean_unit_variance
from components.encoders.audio.speech_models import receptive_field
from components.errors import InputError
from components.weights.file import Weights
from components.weights.fit import assign_weights, check_fit
from components.weights.identity import record_identity
from components.weights.named_files import names_files
from components.weights.pretrained import Sha256, builds_shapes_only, dtype_named, repository_of

FEATURES = ("backbone", "aligned")


@names_files(checkpoint=None)
class DenseAVEncoder(FrozenAudioEncoder):
    """Tokens of DenseAV (arXiv 2406.05629), frozen; sound at 16 kHz.

    ``backbone`` tokens are HuBERT's last layer (public model: 50 Hz, 1024 wide, token i centred at
    ``(320 i + 200) / 16000`` s). ``aligned`` tokens have gone through the aligner, whose two pools merge nine of them
    into one (5.56 Hz, 384 wide in the public sound model).

    Built on the meta device (``torch.device("meta")``), only shapes are read, and a public name that is not on disk
    stands for its known architecture.

    Args:
        checkpoint: hub repository such as ``hf://mhamilton723/DenseAV-sound``, a folder with ``model.safetensors`` and
            ``config.json``, or a Lightning ``.ckpt``.
        features: ``backbone`` or ``aligned``.
        normalize: bring every clip to zero mean and unit variance first, as in DenseAV's training; its demos do not.
        dtype: precision of the weights: float32, bfloat16 or float16. Tokens are float32 always.
        sha256: digest of the file, or of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if an argument is unknown or the checkpoint is absent or does not fit.
    """

    audio_cls: nn.Parameter | None

    def __init__(
        self,
        checkpoint: str = f"hf://{PUBLIC_NAMES[0]}",
        features: str = "backbone",
        normalize: bool = True,
        dtype: str = "float32",
        sha256: Sha256 = None,
    ) -> None:
        super().__init__()
        if features not in FEATURES:
            raise InputError(f"features is {features!r}: choose from {', '.join(FEATURES)}.")
        self.normalize = normalize
        precision, aligned = dtype_named(dtype), features == "aligned"
        if builds_shapes_only() and repository_of(checkpoint) in PUBLIC_NAMES:
            self._build(DenseAVCheckpoint.public(), aligned)
        else:
            stored, file = read_checkpoint(checkpoint, sha256)
            try:
                self._build(stored, aligned)
            except InputError:
                raise
            except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
                raise InputError(f"'{file}' describes no HuBERT ({error}); restore it from the release") from None
            weights = Weights(self._needed(stored.weights), (file,), file)
            if builds_shapes_only():
                check_fit(self, weights)
            else:
                assign_weights(self, weights, precision)
                record_identity(self, checkpoint, [file])
        self.requires_grad_(False).eval().to(precision)

    def _build(self, stored: DenseAVCheckpoint, aligned: bool) -> None:
        """Modules on the meta device and the time axis of their tokens."""
        from transformers import HubertConfig, HubertModel

        # Masking is for training; without it the model has no mask embedding either.
        config = HubertConfig(**stored.hubert, mask_time_prob=0.0, mask_feature_prob=0.0, apply_spec_augment=False)
        with torch.device("meta"):
            self.hubert = HubertModel(config)
            self.aligner = Aligner(stored.aligner, config.hidden_size, stored.code_dim) if aligned else None
            cls = nn.Parameter(torch.empty(config.hidden_size)) if aligned and stored.learn_audio_cls else None
        self.register_parameter("audio_cls", cls)
        self.unit_length = stored.norm_vectors
        self.dim = stored.code_dim if aligned else config.hidden_size
        field, step = receptive_field(config.conv_kernel, config.conv_stride)
        pool = 1 if self.aligner is None else self.aligner.pool
        self.rate_hz = self.sample_rate / (step * pool)
        # the middle of the first token's samples; with the aligner the middle of the first nine tokens'
        self.first_center_s = (field / 2 + step * (pool - 1) / 2) / self.sample_rate
        self.min_samples = field + step * (pool - 1)

    def _needed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the aligner's weights where backbone features are asked for."""
        return {k: v for k, v in weights.items() if self.aligner is not None or k.startswith("hubert.")}

    def encode(self, waveform: Tensor) -> Tensor:
        """``[B, S]`` to backbone or aligned tokens ``[B, N, dim]``."""
        if self.normalize:
            waveform = zero_mean_unit_variance(waveform)
        tokens = self.hubert(waveform.to(self.hubert.dtype)).last_hidden_state
        return tokens if self.aligner is None else self.align(tokens)[0]

    def align(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Backbone tokens ``[B, N, hidden]`` to aligned tokens ``[B, N', dim]`` and the class vector ``[B, dim]``.

        Raises:
            ValueError: if this encoder was built for backbone features.
        """
        if self.aligner is None:
            raise ValueError("an encoder with features='backbone' has no aligner")
        cls = None if self.audio_cls is None else self.audio_cls.expand(len(tokens), -1)
        aligned, cls = self.aligner(tokens, cls)
        return functional.normalize(aligned, dim=-1) if self.unit_length else aligned, cls
