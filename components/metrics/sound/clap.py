"""CLAP: sounds and captions in one space. Its sounds compare sets (FD-CLAP), sound and caption make the CLAP score.

Wu et al. (arXiv 2211.06687), through transformers.

Legend for shapes: S samples, N pieces of a sound, D width of the common space.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from components.contracts import Generation
from components.encoders.transformers_model import load_audio_model, load_feature_extractor
from components.errors import InputError
from components.metrics.scorers import ClipScores
from components.metrics.sound.clip_sound import generated_sound, pieces
from components.metrics.sound.frozen import SoundFeatures, SoundScorer
from components.metrics.sound.tokenizer import load_tokenizer
from components.weights.identity import identity_of, inherit_identity
from components.weights.named_files import names_files
from components.weights.pretrained import Sha256, builds_shapes_only

PUBLIC: dict[str, dict[str, Any]] = {
    "laion/clap-htsat-unfused": {},
    "laion/clap-htsat-fused": {"audio_config": {"enable_fusion": True, "fusion_type": "aff_2d"}},
}
"""Public models, and where their config differs from transformers' defaults."""

DEFAULT = "hf://laion/clap-htsat-unfused"


class Clap(nn.Module):
    """Both towers of a CLAP model, frozen, with its own front end.

    The model hears at most 10 s; longer sound is cut into the fewest equal pieces. (CLAP's own front end would take
    10 s somewhere at random.)

    Args:
        checkpoint: folder or hub repository.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if the checkpoint is absent, damaged or another model.
    """

    def __init__(self, checkpoint: str = DEFAULT, sha256: Sha256 = None) -> None:
        super().__init__()
        self.model = load_audio_model("ClapModel", checkpoint, "float32", PUBLIC, sha256=sha256)
        inherit_identity(self, self.model)
        self.front_end = load_feature_extractor("ClapFeatureExtractor", checkpoint)
        self.tokenizer = None if builds_shapes_only() else load_tokenizer(checkpoint)
        self.sample_rate: int = self.front_end.sampling_rate
        self.max_samples: int = self.front_end.nb_max_samples
        self.dim: int = self.model.config.projection_dim
        self.eval().requires_grad_(False)

    def sound_embeddings(self, sound: Tensor) -> Tensor:
        """A sound ``[S]`` to one embedding of length 1 per piece: ``[N, D]``."""
        return torch.cat([self._embed_piece(piece) for piece in pieces(sound, self.max_samples)])

    def _embed_piece(self, piece: Tensor) -> Tensor:
        fed = self.front_end(piece.cpu().numpy(), sampling_rate=self.sample_rate, return_tensors="pt")
        features = fed["input_features"].to(piece.device, torch.float32)
        # no piece is longer than the model hears; the front end would mark one at random
        longer = torch.zeros(1, 1, dtype=torch.bool, device=piece.device)
        result: Tensor = self.model.get_audio_features(input_features=features, is_longer=longer).pooler_output
        return result

    def text_embedding(self, caption: str) -> Tensor:
        """A caption to its embedding ``[D]`` of length 1; what is longer than the model reads is cut off."""
        if self.tokenizer is None:
            raise InputError("CLAP was built without weights, so it cannot read captions; build it on a real device")
        limit = self.model.config.text_config.max_position_embeddings - 2  # RoBERTa's positions begin at 2
        ids = self.tokenizer(caption, truncation=True, max_length=limit, return_tensors="pt")
        device = self.model.logit_scale_a.device
        found = self.model.get_text_features(
            input_ids=ids["input_ids"].to(device), attention_mask=ids["attention_mask"].to(device)
        )
        result: Tensor = found.pooler_output[0]
        return result

    def identity(self) -> dict[str, object]:
        """The SHA-256 of the weights."""
        return {"model": "CLAP", "weights_sha256": identity_of(self).sha256}


@names_files(checkpoint=None)
class ClapFeatures(SoundFeatures):
    """CLAP's embeddings of a clip's sound, one per piece of at most 10 s (FD-CLAP).

    Args:
        checkpoint: folder or hub repository.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).
    """

    def __init__(self, checkpoint: str = DEFAULT, sha256: Sha256 = None) -> None:
        super().__init__()
        self.clap = Clap(checkpoint, sha256)
        self.sample_rate, self.dim = self.clap.sample_rate, self.clap.dim

    def embed(self, sound: Tensor) -> Tensor:
        """``[S]`` to ``[N, dim]``."""
        return self.clap.sound_embeddings(sound)

    def identity(self) -> dict[str, object]:
        """The model."""
        return self.clap.identity()


@names_files(checkpoint=None)
class ClapScore(SoundScorer):
    """``clap_score``: the cosine of sound and caption in CLAP's space, averaged over pieces of at most 10 s.

    Where a clip has a description of its acoustic scene, that is its caption here. A clip without either has no score:
    ``no_caption``.

    Args:
        checkpoint: folder or hub repository.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).
    """

    higher_is_better: ClassVar = {"clap_score": True}

    def __init__(self, checkpoint: str = DEFAULT, sha256: Sha256 = None) -> None:
        super().__init__()
        self.clap = Clap(checkpoint, sha256)

    def score_clip(self, generation: Generation, row: int) -> ClipScores:
        """``clap_score`` of clip ``row``."""
        scenes = generation.reference.scenes
        caption = (scenes[row] if scenes is not None else "").strip() or generation.reference.captions[row].strip()
        if not caption:
            return ClipScores(problem="no_caption")
        sound = self.clap.sound_embeddings(generated_sound(generation, row, self.clap.sample_rate))
        return ClipScores({"clap_score": float((sound @ self.clap.text_embedding(caption)).mean())})

    def identity(self) -> dict[str, object]:
        """The model."""
        return self.clap.identity()
