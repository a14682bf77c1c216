"""Velocity errors told apart by task, modality and noise level, as sums and counts that add up over steps and ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from components.contracts import MODALITIES, Modality

TASKS = ("joint", "audio_driven", "video_driven")


@dataclass(frozen=True)
class RowErrors:
    """Errors of one modality in one batch of rows.

    Attributes:
        error: mean squared velocity error of each row ``[R]``, without gradient.
        counted: bool ``[R]``, rows in which the modality was predicted.
        tasks: int64 ``[R]``, index into `TASKS`.
        sigma: noise levels ``[R]``.
    """

    error: Tensor
    counted: Tensor
    tasks: Tensor
    sigma: Tensor


class TaskLossTable:
    """Sums and counts by task, modality and noise bucket. Sum `state` over ranks, and `means` are exact.

    Args:
        num_buckets: equal parts of the noise levels 0 to 1.
        device: where the sums are kept.

    Attributes:
        state: float64 ``[2, 3, 2, K]``: (sum, count), task, modality, bucket.
    """

    def __init__(self, num_buckets: int = 4, device: torch.device | str = "cpu") -> None:
        self.num_buckets = num_buckets
        self.state = torch.zeros(2, len(TASKS), len(MODALITIES), num_buckets, dtype=torch.float64, device=device)

    def add(self, modality: Modality, rows: RowErrors) -> None:
        """Count the rows of one batch in; nothing is read back from the device."""
        bucket = (rows.sigma * self.num_buckets).long().clamp(0, self.num_buckets - 1)
        # one flat index per row, task by modality by bucket, for one ``index_add_``
        cell = (rows.tasks * len(MODALITIES) + MODALITIES.index(modality)) * self.num_buckets + bucket
        # rows in which the modality drives have an error of 0 that means nothing
        counted = rows.counted.to(torch.float64)
        sums, counts = self.state.view(2, -1)
        sums.index_add_(0, cell, rows.error.to(torch.float64) * counted)
        counts.index_add_(0, cell, counted)

    def means(self) -> dict[str, float]:
        """Mean error per modality, per task and modality, and per noise bucket of these; empty cells are left out."""
        # the only wait for the device
        sums, counts = self.state.cpu()
        found: dict[str, float] = {}

        def note(name: str, total: Tensor, count: Tensor) -> None:
            if count.sum() > 0:
                found[name] = (total.sum() / count.sum()).item()

        for m, modality in enumerate(MODALITIES):
            note(modality, sums[:, m], counts[:, m])
            for t, task in enumerate(TASKS):
                note(f"{task}/{modality}", sums[t, m], counts[t, m])
                for k in range(self.num_buckets):
                    note(f"{task}/{modality}_sigma{k}", sums[t, m, k], counts[t, m, k])
        return found

    def bucket_counts(self, modality: Modality) -> list[int]:
        """How many rows of ``modality`` fell into each noise bucket."""
        counts = self.state[1, :, MODALITIES.index(modality)].sum(dim=0)
        return [round(count) for count in counts.tolist()]
