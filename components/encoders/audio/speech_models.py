"""Speech models that read the waveform: HuBERT, WavLM and wav2vec 2.0, 50 tokens per second."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from components.encoders.audio.frozen import FrozenAudioEncoder, zero_mean_unit_variance
from components.encoders.transformers_model import load_audio_model, load_feature_extractor
from components.errors import InputError
from components.weights.identity import inherit_identity
from components.weights.named_files import names_files
from components.weights.pretrained import Sha256, builds_shapes_only, read_config, repository_of, resolve_folder

_CLASSES = {"hubert": "HubertModel", "wavlm": "WavLMModel", "wav2vec2": "Wav2Vec2Model"}

_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}
PUBLIC: dict[str, dict[str, Any]] = {
    "facebook/hubert-base-ls960": {"model_type": "hubert"},
    "facebook/hubert-large-ls960-ft": {"model_type": "hubert", "conv_bias": True, **_LARGE},
    "microsoft/wavlm-base": {"model_type": "wavlm"},
    "microsoft/wavlm-base-plus": {"model_type": "wavlm"},
    "microsoft/wavlm-large": {"model_type": "wavlm", **_LARGE},
    "facebook/wav2vec2-base": {"model_type": "wav2vec2"},
    "facebook/wav2vec2-large-960h-lv60-self": {"model_type": "wav2vec2", "conv_bias": True, **_LARGE},
}
"""Public models, and where their config differs from transformers' defaults."""


@names_files(checkpoint=None)
class SpeechEncoder(FrozenAudioEncoder):
    """The last layer of a speech model as tokens, frozen; sound at 16 kHz.

    Token i hears samples ``[320 i, 320 i + 400)`` (as every public model's convolutions have it) and more through
    attention; it is centred at ``(320 i + 200) / 16000`` s.

    Args:
        checkpoint: folder or hub repository of a HuBERT, WavLM or wav2vec 2.0 model.
        normalize: bring every clip to zero mean and unit variance first; None for what the model was trained with.
        dtype: precision of the weights: float32, bfloat16 or float16. Tokens are float32 always.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if the checkpoint is absent, damaged or another model.
    """

    def __init__(
        self,
        checkpoint: str = "hf://facebook/hubert-base-ls960",
        normalize: bool | None = None,
        dtype: str = "float32",
        sha256: Sha256 = None,
    ) -> None:
        super().__init__()
        kind = _kind_of(checkpoint)
        masking: dict[str, Any] = {
            "mask_time_prob": 0.0,
            "mask_feature_prob": 0.0,
            "apply_spec_augment": False,
        }  # for training only
        plain: dict[str, Any] = {} if kind == "hubert" else {"add_adapter": False}  # an adapter would lower the rate
        public = {name: {k: v for k, v in config.items() if k != "model_type"} for name, config in PUBLIC.items()}
        self.model = load_audio_model(_CLASSES[kind], checkpoint, dtype, public, sha256=sha256, **masking, **plain)
        inherit_identity(self, self.model)
        if normalize is None:
            normalize = load_feature_extractor("Wav2Vec2FeatureExtractor", checkpoint).do_normalize
        self.normalize = bool(normalize)
        config = self.model.config
        self.dim = config.hidden_size
        self.min_samples, step = receptive_field(config.conv_kernel, config.conv_stride)
        self.rate_hz = self.sample_rate / step
        self.first_center_s = self.min_samples / 2 / self.sample_rate
        self.eval()

    def encode(self, waveform: Tensor) -> Tensor:
        """``[B, S]`` to ``[B, 1 + (S - 400) // 320, dim]``."""
        if self.normalize:
            waveform = zero_mean_unit_variance(waveform)
        tokens: Tensor = self.model(waveform.to(self.model.dtype)).last_hidden_state
        return tokens


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """Samples that one output of a stack of convolutions looks at, and samples between outputs."""
    # every kernel adds its taps less one, each as far apart as the strides before it say
    field = 1 + sum((kernel - 1) * prod(strides[:i]) for i, kernel in enumerate(kernels))
    return field, prod(strides)


def _kind_of(checkpoint: str) -> str:
    repository = repository_of(checkpoint)
    if builds_shapes_only() and repository in PUBLIC:
        return str(PUBLIC[repository]["model_type"])
    folder = resolve_folder(checkpoint)
    kind = read_config(folder).get("model_type")
    if kind not in _CLASSES:
        raise InputError(
            f"'{folder}' holds a model of type {kind!r}, but a speech encoder needs one of {', '.join(_CLASSES)}"
        )
    return str(kind)
