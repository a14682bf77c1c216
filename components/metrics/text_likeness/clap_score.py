"""CLAP score: is there to be heard what was asked for?

Wu et al., 2023 (arXiv 2211.06687); as in JavisBench: cosine of the whole sound with its prompt. Not comparable with
IB-A, which is ImageBind's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.functional import resample

from components.codecs.no_autocast import no_autocast
from components.contracts import Generation
from components.encoders.transformers_model import load_feature_extractor
from components.metrics.prompts import sound_prompt_of
from components.metrics.scorers import ClipScorer, ClipScores
from components.metrics.text_likeness.model_folder import load_with_tokenizer, text_vector
from components.weights.digests import Sha256
from components.weights.identity import identity_of
from components.weights.named_files import names_files

PUBLIC: dict[str, dict[str, Any]] = {"laion/clap-htsat-unfused": {}}


@names_files(checkpoint=None)
class ClapScore(ClipScorer):
    """Cosine of the sound with the clip's scene, or with its caption where that says it.

    CLAP hears 10 s. Of longer sound the middle is heard, where the public program takes a piece at random.

    Args:
        checkpoint: folder or hub repository of a CLAP (the public one is under Apache 2.0).
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if the checkpoint is absent, damaged or another model.
    """

    higher_is_better: ClassVar[dict[str, bool]] = {"clap_score": True}

    def __init__(self, checkpoint: str = "hf://laion/clap-htsat-unfused", sha256: Sha256 = None) -> None:
        super().__init__()
        self.model, self.tokenizer = load_with_tokenizer("ClapModel", checkpoint, PUBLIC, sha256)
        self.front_end = load_feature_extractor("ClapFeatureExtractor", checkpoint)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode whatever is asked for."""
        return super().train(False)

    def identity(self) -> dict[str, object]:
        """The weights."""
        weights = identity_of(self.model)
        return {"model": weights.name, "sha256": weights.sha256}

    @torch.no_grad()
    def score(self, generation: Generation, rows: Sequence[int]) -> list[ClipScores]:
        """One by one, so that no clip's score depends on another's.

        Raises:
            InputError: if a clip has neither scene nor caption.
        """
        prompts = [sound_prompt_of(generation.reference, row, "clap_score") for row in rows]
        with no_autocast(next(self.parameters()).device):
            return [
                self._score(generation.audio[row], generation.sample_rate, prompt)
                for row, prompt in zip(rows, prompts, strict=True)
            ]

    def _score(self, audio: Tensor, sample_rate: int, prompt: str) -> ClipScores:
        if not len(audio):
            return ClipScores(problem="too_short")
        rate, longest = self.front_end.sampling_rate, self.front_end.nb_max_samples
        sound = audio.float() if sample_rate == rate else resample(audio.float(), sample_rate, rate)
        first = max(0, (len(sound) - longest) // 2)
        given = self.front_end(sound[first : first + longest].cpu().numpy(), sampling_rate=rate, return_tensors="pt")
        text = text_vector(self.model, self.tokenizer, prompt)
        heard = self.model.get_audio_features(
            given["input_features"].to(text.device), is_longer=given["is_longer"].to(text.device)
        ).pooler_output[0]
        return ClipScores({"clap_score": float(F.cosine_similarity(heard, text, dim=0))})
