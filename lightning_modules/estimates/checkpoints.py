"""How much storage the checkpoints of a run take: its configuration says when they are written and which are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_modules.estimates.memory import BFLOAT16, ExperimentMemory


@dataclass(frozen=True)
class CheckpointStorage:
    """Of a whole run.

    Attributes:
        size: bytes of one checkpoint: what trains, its average, the optimizer's state.
        kept: checkpoints that lie there at the end.
        written: checkpoints that are written in all.
        slim: bytes of a slim checkpoint at the end; 0 without.
    """

    size: int
    kept: int
    written: int
    slim: int

    @property
    def kept_bytes(self) -> int:
        """Bytes at the end."""
        return self.size * self.kept + self.slim

    @property
    def most_bytes(self) -> int:
        """Most bytes at a time: a checkpoint is whole before the one it replaces goes."""
        return self.size * min(self.kept + 1, max(self.written, 1)) + self.slim

    @property
    def written_bytes(self) -> int:
        """Bytes that go through the disk."""
        return self.size * self.written + self.slim


def checkpoint_storage(
    memory: ExperimentMemory, callbacks: Mapping[str, Mapping[str, Any]], steps: int
) -> CheckpointStorage:
    """Of a run of so many steps.

    Args:
        memory: what trains.
        callbacks: class name -> arguments.
        steps: optimizer steps.
    """
    averages = 1 + ("EMA" in callbacks)
    given = callbacks.get("ModelCheckpoint", {})
    state = 0 if given.get("save_weights_only") else memory.optimizer_state
    every = given.get("every_n_train_steps") or steps
    saves = max(steps // every, 1)
    best = 1 if given.get("save_top_k") is None else int(given["save_top_k"])
    # without a metric to choose by, ``save_top_k`` keeps the newest one, or all
    kept = saves if best < 0 else min(best if given.get("monitor") else min(best, 1), saves)
    copies = 1 if given.get("save_last") is True else 0  # ``link`` takes no room
    slim = averages * memory.model.trained * BFLOAT16 if "SlimCheckpoint" in callbacks else 0
    written = saves * (1 + copies) if best else saves * copies
    return CheckpointStorage(averages * memory.gradients + state, kept + copies, written, slim)
