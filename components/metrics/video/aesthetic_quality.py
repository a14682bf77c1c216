"""AQ: how pleasing frames are to predictors of people's ratings.

Two predictors go by that name and do not compare: Harmony, UniVerse-1 and Verse-Bench take `AestheticPredictorV25`,
VBench and older tables `LaionAesthetics`. Metrics specification, sections 10 and 16.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.encoders.transformers_model import load_audio_model
from components.metrics.scorers import ClipScores
from components.metrics.video.frames import frames_at
from components.metrics.video.front_end import FrontEnd
from components.metrics.video.judge import VideoScorer, at_least_one, needs_torchvision, positive_or_none
from components.metrics.video.weight_file import needed_file
from components.weights.digests import Sha256
from components.weights.identity import identity_of
from components.weights.named_files import names_files, of_no_consequence, published
from components.weights.pretrained import load_safetensors

HEAD = "https://github.com/discus0434/aesthetic-predictor-v2-5/raw/main/models/aesthetic_predictor_v2_5.pth"
LAION_HEAD = "https://github.com/LAION-AI/aesthetic-predictor/raw/main/sa_0_4_vit_l_14_linear.pth"
RATINGS = 10
"""Ratings go from 1 to 10; tables show a tenth of them."""


class AestheticScorer(VideoScorer):
    """A head that rates unit vectors of a vision transformer, over the frames of a clip.

    Args:
        model: the transformer's class in transformers.
        checkpoint: its folder or hub repository, with its front end.
        rate_hz: frames per second that are rated; None rates every frame.
        frames_at_once: frames embedded together.
        sha256: digests of files in the folder.

    Raises:
        InputError: if an argument is out of range, or the checkpoint is absent, damaged or another model.
    """

    head: nn.Module

    def __init__(self, model: str, checkpoint: str, rate_hz: float | None, frames_at_once: int, sha256: Sha256) -> None:
        super().__init__()
        needs_torchvision(type(self).__name__)
        at_least_one(self, frames_at_once=frames_at_once)
        positive_or_none(self, rate_hz=rate_hz)
        self.rate_hz, self.frames_at_once = rate_hz, frames_at_once
        self.net = load_audio_model(model, checkpoint, "float32", {}, sha256=sha256)
        self.front_end = FrontEnd(checkpoint)

    @abstractmethod
    def embeddings(self, output: Any) -> Tensor:
        """What is rated of the transformer's output: ``[N, width]``."""

    def judge(self, frames: Tensor, fps: float) -> ClipScores:
        """Scores one clip."""
        seen = frames[frames_at(len(frames), fps, self.rate_hz)]
        ratings = torch.cat([self._rate(part) for part in seen.split(self.frames_at_once)])
        (name,) = self.higher_is_better
        return ClipScores({name: ratings.mean().item() / RATINGS})

    def _rate(self, frames: Tensor) -> Tensor:
        """``[N, 3, H, W]`` in [0, 1] to ratings ``[N]``."""
        ratings: Tensor = self.head(F.normalize(self.embeddings(self.net(self.front_end(frames))), dim=-1))
        return ratings.flatten()

    def identity(self) -> dict[str, object]:
        """Models and the frames that are rated."""
        return {
            "rate_hz": self.rate_hz,
            "sha256": identity_of(self.net).sha256,
            "head_sha256": identity_of(self.head).sha256,
        }


class ScoringHead(nn.Module):
    """Five linear layers without nonlinearities, as aesthetic-predictor-v2-5 publishes them.

    Args:
        width: of the embedding.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((width, 1024, 128, 64, 16, 1)):
            # the dropouts between them only take a number in the names of the public file
            layers += [nn.Linear(before, after), nn.Dropout(0.0)]
        self.scoring_head = nn.Sequential(*layers[:-1])

    def forward(self, embeddings: Tensor) -> Tensor:
        """``[N, width]`` to ratings ``[N, 1]``."""
        ratings: Tensor = self.scoring_head(embeddings)
        return ratings


@of_no_consequence("frames_at_once")
@published(f"download {HEAD}")
@names_files("head", checkpoint=None)
class AestheticPredictorV25(AestheticScorer):
    """Mean rating of a clip's frames by aesthetic-predictor-v2-5, a tenth of it: about 0.1 to 1; higher is better.

    SigLIP's pooled embedding at unit length and a small head.

    Args:
        head: the head's file, ``aesthetic_predictor_v2_5.pth`` (see `HEAD`; AGPL-3.0).
        checkpoint: folder or hub repository of SigLIP so400m-patch14-384, with its front end.
        rate_hz: frames per second that are rated; None rates every frame, as Verse-Bench does.
        frames_at_once: frames embedded together; bounds the memory.
        head_sha256: digest that ``head`` must have.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if an argument is out of range, or a file is absent, damaged or another model's.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"aesthetic_quality": True}

    def __init__(
        self,
        head: str,
        checkpoint: str = "hf://google/siglip-so400m-patch14-384",
        rate_hz: float | None = None,
        frames_at_once: int = 8,
        head_sha256: str | None = None,
        sha256: Sha256 = None,
    ) -> None:
        file = needed_file(head, head_sha256, "AestheticPredictorV25.head", f"download {HEAD}")
        super().__init__("SiglipVisionModel", checkpoint, rate_hz, frames_at_once, sha256)
        self.head = ScoringHead(self.net.config.hidden_size).requires_grad_(False)
        load_safetensors(self.head, file, head)
        self.eval()

    def embeddings(self, output: Any) -> Tensor:
        """See `AestheticScorer.embeddings`."""
        pooled: Tensor = output.pooler_output
        return pooled


@of_no_consequence("frames_at_once")
@published(f"download {LAION_HEAD}")
@names_files("head", checkpoint=None)
class LaionAesthetics(AestheticScorer):
    """Mean rating of a clip's frames by LAION's linear predictor, a tenth of it: about 0.3 to 0.7; higher is better.

    VBench's aesthetic quality: CLIP's projected embedding at unit length and one linear layer. Pictures are brought to
    CLIP's size with a low-pass, as CLIP's own front end does; VBench does it without.

    Args:
        head: the head's file, ``sa_0_4_vit_l_14_linear.pth`` (see `LAION_HEAD`; MIT).
        checkpoint: folder or hub repository of CLIP ViT-L/14, with its front end.
        rate_hz: frames per second that are rated; None rates every frame, as VBench does.
        frames_at_once: frames embedded together; bounds the memory.
        head_sha256: digest that ``head`` must have.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if an argument is out of range, or a file is absent, damaged or another model's.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"aesthetic_quality_laion": True}

    def __init__(
        self,
        head: str,
        checkpoint: str = "hf://openai/clip-vit-large-patch14",
        rate_hz: float | None = None,
        frames_at_once: int = 16,
        head_sha256: str | None = None,
        sha256: Sha256 = None,
    ) -> None:
        file = needed_file(head, head_sha256, "LaionAesthetics.head", f"download {LAION_HEAD}")
        super().__init__("CLIPVisionModelWithProjection", checkpoint, rate_hz, frames_at_once, sha256)
        self.head = nn.Linear(self.net.config.projection_dim, 1).requires_grad_(False)
        load_safetensors(self.head, file, head)
        self.eval()

    def embeddings(self, output: Any) -> Tensor:
        """See `AestheticScorer.embeddings`."""
        projected: Tensor = output.image_embeds
        return projected
