"""What an experiment on the meta device holds in memory, whichever model it trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from components.backbones.recomputation import LayerPolicy
from components.counting.saved_activations import BlockBytes
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
    def of(cls, whole: int, blocks: Sequence[BlockBytes], policies: Sequence[LayerPolicy], batch: str) -> Activations:
        """From what the blocks keep where nothing is computed again, and the policy of each."""
        kept, largest = whole, 0
        for block, policy in zip(blocks, policies, strict=True):
            if policy:
                kept += block.inputs + (block.attention if policy == "selective" else 0) - block.kept
                largest = max(largest, block.kept)  # one block at a time is computed again
        return cls(min(kept + largest, whole), whole, batch)  # by then the layers behind it are done with


@dataclass(frozen=True)
class Sharing:
    """How processes share the work.

    Attributes:
        gpus: how many.
        sharded: weights, gradients and optimizer state are sharded over them (FSDP2); each has all of them otherwise.
        whole_gradients: sharded gradients are averaged once a step, not after every batch that is accumulated: until
            then each process holds those of the whole model.
        compute_bytes: of a weight that is computed with.
    """

    gpus: int
    sharded: bool = True
    whole_gradients: bool = False
    compute_bytes: int = BFLOAT16

    @property
    def shards(self) -> int:
        """Parts that the model is cut into."""
        return self.gpus if self.sharded else 1


@dataclass(frozen=True)
class ExperimentMemory:
    """Everything that the tables are made of.

    Attributes:
        sharded: parts that are sharded over the GPUs, by name.
        replicated: parts that every GPU holds whole.
        freed: parts that are loaded for new texts only.
        unit: parameters of the largest unit that sharding gathers.
        checkpoints: whether any activations are computed again.
        activations: of the costliest batch.
        encoding: bytes held while latents are encoded.
        clips: the batch of one GPU, for people.
        optimizer: bytes of its state; None for AdamW's.
        stepping: bytes of the temporary tensors of its step; None for AdamW's when it makes lists of them.
        gathered: parameters that sharding gathers for one batch, each as often as it is gathered.
    """

    sharded: dict[str, Part]
    replicated: dict[str, Part]
    freed: dict[str, Part]
    unit: int
    checkpoints: bool
    activations: Activations
    encoding: int
    clips: str
    optimizer: int | None = None
    stepping: int | None = None
    gathered: int = 0

    @property
    def model(self) -> Part:
        """What is sharded, all together."""
        return Part.total(self.sharded.values())

    @property
    def gradients(self) -> int:
        """Bytes of all gradients, and of a moving average of what trains."""
        return self.model.trained * FLOAT32

    @property
    def optimizer_state(self) -> int:
        """Bytes of the whole optimizer state."""
        return 2 * self.gradients if self.optimizer is None else self.optimizer

    def per_gpu(self, sharing: Sharing, averaged: bool) -> dict[str, float]:
        """Bytes on each GPU by what they hold, and their ``peak``.

        Args:
            sharing: how many GPUs there are, and what they share.
            averaged: a moving average of what trains is kept.
        """
        model, replicated, shards = self.model, Part.total(self.replicated.values()), sharing.shards
        # what compute needs beside the weights that are kept: units as they are gathered, or autocast's copies
        casts = model.trained if sharing.compute_bytes < FLOAT32 else 0
        copies = (3 * self.unit if shards > 1 else casts) * sharing.compute_bytes
        held = {
            "weights": model.weights / shards + replicated.weights,
            "gradients": self.gradients / (1 if sharing.whole_gradients else shards),
            "optimizer": self.optimizer_state / shards,
            "EMA": self.gradients / shards if averaged else 0.0,
            "copies": float(copies),
            "activations": float(self.activations.kept),
            "encoding": float(self.encoding),
            # lists of tensors make one as large as what trains; one kernel makes nothing
            "stepping": (self.gradients if self.stepping is None else self.stepping) / shards,
        }
        # not at a time: latents are encoded before the transformer runs, the optimizer steps when it has run
        passing = (held["activations"], held["encoding"], held["stepping"])
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
