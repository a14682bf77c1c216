"""What an experiment on the meta device takes, whichever model it trains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.saved_activations import BlockBytes
from components.encoders.text.cached import CachedText
from components.encoders.transcript.cached import CachedTranscript

FLOAT32, BFLOAT16 = 4, 2


@dataclass(frozen=True)
class Part:
    """Parameters of a part, how many of them train, and bytes in the precision they are kept in."""

    parameters: int
    trained: int
    weights: int

    @classmethod
    def of(cls, parameters: Iterable[nn.Parameter]) -> Part:
        """Counts."""
        held = list(parameters)
        trained = sum(p.numel() for p in held if p.requires_grad)
        return cls(sum(p.numel() for p in held), trained, sum(p.numel() * p.element_size() for p in held))

    @classmethod
    def total(cls, parts: Iterable[Part]) -> Part:
        """All together; nothing of nothing."""
        rows = [(0, 0, 0), *((part.parameters, part.trained, part.weights) for part in parts)]
        return cls(*(sum(column) for column in zip(*rows, strict=True)))


@dataclass(frozen=True)
class Activations:
    """Bytes autograd keeps of one batch.

    Attributes:
        kept: with the experiment's own setting of ``checkpoint_activations``, recomputation of one block included.
        without_checkpoints: with everything kept.
        batch: what the batch is, for people.
    """

    kept: int
    without_checkpoints: int
    batch: str

    @classmethod
    def of(cls, whole: int, blocks: list[BlockBytes], checkpointed: list[BlockBytes] | None, batch: str) -> Activations:
        """From what all blocks keep, and which of them are checkpointed (None: nothing is)."""
        if checkpointed is None:
            return cls(whole, whole, batch)
        outside = whole - sum(block.kept for block in blocks)
        largest = max((block.kept for block in blocks), default=0)
        return cls(outside + sum(block.inputs for block in checkpointed) + largest, whole, batch)


@dataclass(frozen=True)
class ExperimentMemory:
    """Everything that the tables are made of.

    Attributes:
        sharded: parts that are sharded over the GPUs, by name.
        replicated: parts that every GPU holds whole.
        freed: parts that are loaded for new texts only.
        unit: parameters of the largest unit that sharding gathers.
        checkpoints: whether activations are recomputed.
        activations: of the costliest batch.
        encoding: bytes held while latents are encoded.
        clips: the batch of one GPU, for people.
    """

    sharded: dict[str, Part]
    replicated: dict[str, Part]
    freed: dict[str, Part]
    unit: int
    checkpoints: bool
    activations: Activations
    encoding: int
    clips: str

    def per_gpu(self, gpus: int, averaged: bool) -> dict[str, float]:
        """Bytes on each of ``gpus`` GPUs by what they hold, and their ``peak``.

        Args:
            gpus: that share weights, gradients and optimizer state.
            averaged: a moving average of what trains is kept.
        """
        model, replicated = Part.total(self.sharded.values()), Part.total(self.replicated.values())
        gradients = model.trained * FLOAT32
        held = {
            "weights": model.weights / gpus + replicated.weights,
            "gradients": gradients / gpus,
            "AdamW": 2 * gradients / gpus,
            "EMA": gradients / gpus if averaged else 0,
            # bfloat16 copies that compute needs at a time
            "bf16 copies": (3 * self.unit if gpus > 1 else model.trained) * BFLOAT16,
            "activations": self.activations.kept,
            "encoding": self.encoding,
        }
        passing = (held["activations"], held["encoding"])  # latents are encoded before the transformer runs
        return {**held, "peak": sum(held.values()) - sum(passing) + max(passing)}


def frozen(module: nn.Module | None) -> Part:
    """A codec or an encoder; nothing if there is none. One that waits for new texts is built, without weights."""
    if isinstance(module, CachedTranscript):
        module = module.cached
    if isinstance(module, CachedText):
        with torch.device("meta"):
            module = module.source.load()
    part = Part.of([] if module is None else module.parameters())
    return Part(part.parameters, 0, part.weights)
