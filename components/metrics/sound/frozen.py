"""What all judges of sound share: one clip at a time, in evaluation mode, float32, without gradients or autocast."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from components.codecs.no_autocast import no_autocast
from components.contracts import Generation
from components.metrics.scorers import ClipScorer, ClipScores, FeatureExtractor
from components.metrics.sound.clip_sound import generated_sound


class SoundScorer(ClipScorer):
    """Scores clips one after the other, so that no value depends on the batch a clip comes in."""

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the trainer asks for."""
        return super().train(False)

    @torch.no_grad()
    def score(self, generation: Generation, rows: Sequence[int]) -> list[ClipScores]:
        """As `ClipScorer.score`."""
        generation = beside(self, generation)
        with no_autocast(generation.audio.device):
            return [self.score_clip(generation, row) for row in rows]

    @abstractmethod
    def score_clip(self, generation: Generation, row: int) -> ClipScores:
        """Scores clip ``row``."""


class SoundFeatures(FeatureExtractor):
    """Features of the generated sound of clips, one clip after the other.

    Attributes:
        sample_rate: rate that `embed` takes.
    """

    sample_rate: int

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the trainer asks for."""
        return super().train(False)

    @torch.no_grad()
    def features(self, generation: Generation, rows: Sequence[int]) -> list[Tensor]:
        """As `FeatureExtractor.features`."""
        generation = beside(self, generation)
        with no_autocast(generation.audio.device):
            return [self.embed(generated_sound(generation, row, self.sample_rate)).float() for row in rows]

    @abstractmethod
    def embed(self, sound: Tensor) -> Tensor:
        """Features ``[N, dim]`` of a sound ``[S]`` at ``sample_rate``."""


def beside(judge: nn.Module, generation: Generation) -> Generation:
    """The generation with its sound on the device of a judge's weights; where that is, real sounds follow."""
    held = next(itertools.chain(judge.parameters(), judge.buffers()), None)
    return generation if held is None else replace(generation, audio=generation.audio.to(held.device))
