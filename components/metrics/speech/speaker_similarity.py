"""Whether a generated voice is the one that was given as reference.

The cosine of two voice embeddings, as papers on voice cloning report it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from components.contracts import Generation
from components.errors import InputError
from components.metrics.scorers import ClipScores
from components.metrics.sound.clip_sound import at_rate, generated_sound, level_dbfs
from components.metrics.sound.frozen import SoundScorer
from components.metrics.speech.voice_encoder import SAMPLE_RATE, VoiceEncoder
from components.weights.checkpoint_entry import open_entry
from components.weights.fit import copy_weights
from components.weights.identity import identity_of, record_identity
from components.weights.named_files import names_files, published
from components.weights.pretrained import Sha256, builds_shapes_only, find_file

SILENCE_DBFS = -50.0
_NOT_OF_THE_NET = ("similarity_weight", "similarity_bias")
"""Of the loss it was trained with."""


@published("give the path of pretrained.pt, which the package Resemblyzer on PyPI contains (Apache-2.0)")
@names_files("checkpoint")
class SpeakerSimilarity(SoundScorer):
    """``speaker_similarity``: 1 for the same voice. Embeddings have no negative entries, so it is never below 0.

    Unlike the package's own script, silences within a sound are not cut out first (that needs another package). A clip
    without reference sound counts as ``no_reference``; a sound or reference below -50 dBFS as ``silent``.

    Args:
        checkpoint: Resemblyzer's ``pretrained.pt``; None takes that of the installed package.
        sha256: its digest.

    Raises:
        InputError: if the file is absent, damaged or another model's.
    """

    higher_is_better: ClassVar = {"speaker_similarity": True}

    def __init__(self, checkpoint: str | None = None, sha256: Sha256 = None) -> None:
        super().__init__()
        if builds_shapes_only():
            self.encoder = VoiceEncoder()
        else:
            self.encoder = _loaded(_file(checkpoint, sha256), checkpoint)
        self.eval().requires_grad_(False)

    def score_clip(self, generation: Generation, row: int) -> ClipScores:
        """``speaker_similarity`` of clip ``row``."""
        wanted = self._reference(generation, row)
        if wanted is None:
            return ClipScores(problem="no_reference")
        voice = generated_sound(generation, row, SAMPLE_RATE)
        if min(level_dbfs(voice), level_dbfs(wanted)) < SILENCE_DBFS:
            return ClipScores(problem="silent")
        return ClipScores({"speaker_similarity": float(self.encoder(voice) @ self.encoder(wanted))})

    @staticmethod
    def _reference(generation: Generation, row: int) -> Tensor | None:
        """The reference sound of a clip at 16 kHz, without the zeros that fill up its row; None if it has none."""
        batch = generation.reference
        if batch.reference_audio is None or batch.reference_lengths is None or not batch.reference_audio.numel():
            return None
        length = int(batch.reference_lengths[row])
        if not length:
            return None
        return at_rate(batch.reference_audio[row, :length], batch.sample_rate, SAMPLE_RATE).to(generation.audio.device)

    def identity(self) -> dict[str, object]:
        """The SHA-256 of the weights."""
        return {"model": "Resemblyzer", "weights_sha256": identity_of(self.encoder).sha256}


def _file(checkpoint: str | None, sha256: Sha256) -> Path:
    """The weights that were asked for.

    Raises:
        InputError: if they are not there.
    """
    if checkpoint is None:
        package = find_spec("resemblyzer")
        if package is None or package.origin is None:
            raise InputError(
                "SpeakerSimilarity.checkpoint is not given and the package Resemblyzer, which contains it, is not "
                "installed; run: pip install --no-deps resemblyzer (or give the path of its pretrained.pt, Apache-2.0)"
            )
        checkpoint = str(Path(package.origin).parent / "pretrained.pt")
    file = find_file(checkpoint, sha256)
    if file is None:
        raise InputError(
            f"voice encoder '{checkpoint}' does not exist; give the path of pretrained.pt, which the package "
            "Resemblyzer on PyPI contains (Apache-2.0)"
        )
    return file


def _loaded(file: Path, name: str | None) -> VoiceEncoder:
    """The encoder that a file holds, of the sizes that its tensors have."""
    weights = open_entry(file, "model_state")
    for key in _NOT_OF_THE_NET:
        weights.tensors.pop(key, None)
    linear = weights.tensors.get("linear.weight")
    layers = sum(key.startswith("lstm.weight_ih_l") for key in weights.tensors)
    encoder = VoiceEncoder() if linear is None or not layers else VoiceEncoder(linear.shape[1], len(linear), layers)
    copy_weights(encoder, weights)
    record_identity(encoder, name or "Resemblyzer", weights.files)
    return encoder
