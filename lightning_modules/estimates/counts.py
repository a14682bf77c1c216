"""All that is counted of an experiment, before any number of GPUs is asked about."""

from __future__ import annotations

from dataclasses import dataclass

from components.counting.flops import StepCost
from components.counting.step_shape import StepShape
from datamodules.reading.ordered_data_module import OrderedDataModule
from lightning_modules.estimates.encoding import Encoding
from lightning_modules.estimates.memory import ExperimentMemory

TEXT_TOKENS = {"Syncphony": 128, "Harmony": 512}
"""Prompts as long as the public encoders pad them: no step costs more."""
TRANSCRIPT_TOKENS = 128


def batch_shape(data: OrderedDataModule, text_tokens: int, **more: int | None) -> StepShape:
    """A training batch at its longest, with prompts of so many tokens; ``more`` are further fields of `StepShape`."""
    clip = data.clip
    return StepShape(
        clips=data.batch_size,
        num_frames=clip.num_frames,
        fps=clip.fps,
        height=clip.height,
        width=clip.width,
        num_samples=clip.num_samples,
        sample_rate=clip.sample_rate,
        text_tokens=text_tokens,
        **more,  # type: ignore[arg-type]  # each field checks its own
    )


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
