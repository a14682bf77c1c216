"""All that is counted of an experiment, before any number of GPUs is asked about."""

from __future__ import annotations

from dataclasses import dataclass

from components.counting.flops import StepCost
from components.counting.step_shape import StepShape
from lightning_modules.estimates.encoding import Encoding
from lightning_modules.estimates.memory import ExperimentMemory

TEXT_TOKENS = {"Syncphony": 128, "Harmony": 512}
"""Prompts as long as the public encoders pad them: no step costs more."""
TRANSCRIPT_TOKENS = 128


@dataclass(frozen=True)
class Counts:
    """One batch on one GPU.

    Attributes:
        shape: of the batch.
        memory: by part.
        cost: of the transformer in a training step on the batch, forward and backward.
        encoding: of one clip.
    """

    shape: StepShape
    memory: ExperimentMemory
    cost: StepCost
    encoding: Encoding

    @property
    def transformer_flops(self) -> float:
        """Of one clip."""
        return self.cost.flops / self.shape.clips

    @property
    def encoding_flops(self) -> float:
        """Of one clip, by all codecs and encoders of pictures and sounds."""
        return sum(self.encoding.flops.values())
