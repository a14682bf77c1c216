"""Which keys and values the units of a pyramid sampling run hand on, within a bound on memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from components.backbones.pyramid_flow.memory import ColumnMemory
from components.backbones.syncphony.model import SyncphonyDiT

GIB = 2**30


class UnitMemory:
    """One `ColumnMemory` for every step of every stage, as many as fit; a step without one computes all of its tokens.

    Args:
        model: the transformer; one that is not causal over latent frames gets no memory, as nothing would be exact.
        bounds: first latent frame of every unit, and behind them the number of latent frames.
        steps: Euler steps of every stage.
        rows: rows of a call, negative prompts included.
        twins: off-sync twins among them.
        words: positions of the longest prompt of a call.
        frame_tokens: tokens of a latent frame at the lowest resolution.
        limit_bytes: most bytes of all keys and values together.
        device: where they lie.

    Attributes:
        planned_bytes: bytes of keys and values at the end of the run.
    """

    def __init__(
        self,
        model: SyncphonyDiT,
        bounds: Sequence[int],
        steps: Sequence[int],
        rows: int,
        twins: int,
        words: int,
        frame_tokens: int,
        limit_bytes: float,
        device: torch.device,
    ) -> None:
        self.bounds = list(bounds)
        self.planned_bytes = 0
        self._slots: dict[tuple[int, int], ColumnMemory] = {}
        if not model.backbone.temporal_causal or limit_bytes <= 0:
            return
        per_token = model.memory_bytes_per_token(rows, twins, device)
        for stage, count in enumerate(steps):
            # the last unit hands nothing on
            frames = self.lowest_frames(len(self.bounds) - 3, stage)
            size = per_token * (words + frames * frame_tokens)
            for step in range(count if frames else 0):
                if self.planned_bytes + size <= limit_bytes:
                    self.planned_bytes += size
                    self._slots[stage, step] = ColumnMemory(frames)

    @property
    def held_bytes(self) -> int:
        """Bytes of keys and values that are there now."""
        return sum(slot.nbytes for slot in self._slots.values())

    def lowest_frames(self, unit: int, stage: int) -> int:
        """Latent frames of the history of ``unit`` at ``stage`` that stand at the lowest resolution."""
        # the newest unit stands at the stage's own level, every older one a level lower: `history_clips`
        return self.bounds[max(unit - stage, 0)]

    def at(self, unit: int, stage: int, step: int) -> ColumnMemory | None:
        """Memory of a step, told what this unit adds to it; None where there is none."""
        slot = self._slots.get((stage, step))
        if slot is not None:
            # what the next unit finds at the lowest resolution too; nothing comes after the last
            slot.next_frames = max(min(self.lowest_frames(unit, stage), slot.capacity), slot.frames)
        return slot


def free_bytes(device: torch.device) -> float:
    """Bytes that can still be allocated on a GPU; unlimited elsewhere."""
    if device.type != "cuda":
        return float("inf")
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(torch.cuda.mem_get_info(device)[0] + cached)
