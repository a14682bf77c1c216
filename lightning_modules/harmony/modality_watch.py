"""What each modality was given and did in training, over all ranks; and an end to runs in which one of them idles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from components.contracts import MODALITIES, Modality
from components.errors import InputError
from components.objectives.task_losses import RowErrors, TaskLossTable

_CONTENT: dict[Modality, str] = {"video": "motion", "audio": "sound"}
_FIX: dict[Modality, str] = {
    "video": "check that the data module reads videos that move, or train without video",
    "audio": "check that the clips have a sound track, or train without audio",
}


class ModalityWatch:
    """Sums of one logging window. Nothing is read back from the device before `flush`.

    Args:
        modalities: those that are learnt.
        parts: names of the parts whose parameters train.
        patience: steps in a row without content of a modality, or without gradient of a part, that end the run.
        num_buckets: parts into which losses are told apart by noise level.
    """

    def __init__(
        self, modalities: Sequence[Modality], parts: Sequence[str], patience: int = 50, num_buckets: int = 4
    ) -> None:
        self.modalities = tuple(modalities)
        self.parts = tuple(parts)
        self.patience = patience
        self.num_buckets = num_buckets
        self._empty_steps = dict.fromkeys(self.modalities, 0)
        self._idle_steps = dict.fromkeys(self.parts, 0)
        self._start("cpu")

    def _start(self, device: torch.device | str) -> None:
        self.num_steps = 0
        self.table = TaskLossTable(self.num_buckets, device)
        self.sigma = torch.zeros(2, len(MODALITIES), dtype=torch.float64, device=device)  # (sum, count)
        self.content = torch.zeros(1 + len(MODALITIES), dtype=torch.float64, device=device)  # clips, carrying ...
        self.norms = torch.zeros(2, len(self.parts), dtype=torch.float64, device=device)  # (sum, count)

    def add(self, errors: Mapping[Modality, RowErrors], carries: Mapping[Modality, Tensor]) -> None:
        """Count a training step in.

        Args:
            errors: errors of its rows by modality.
            carries: bool ``[B]`` by modality: clips that truly have motion, or sound.
        """
        device = next(iter(carries.values())).device
        if self.content.device != device:  # the module was built before it was moved
            self._start(device)
        self.num_steps += 1
        for modality, rows in errors.items():
            self.table.add(modality, rows)
            m = MODALITIES.index(modality)
            counted = rows.counted.to(torch.float64)
            self.sigma[0, m] += (rows.sigma * counted).sum()
            self.sigma[1, m] += counted.sum()
        self.content[0] += len(next(iter(carries.values())))
        for modality, carrying in carries.items():
            self.content[1 + MODALITIES.index(modality)] += carrying.sum()

    def add_gradients(self, norms: Mapping[str, Tensor]) -> None:
        """Count the gradient norms of an optimizer step in, by part."""
        for i, part in enumerate(self.parts):
            self.norms[0, i] += norms[part].to(self.norms)
            self.norms[1, i] += 1

    def flush(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """What to log of the window, after summing it over ranks; a new window begins.

        Args:
            reduce: sums a tensor over all ranks.

        Raises:
            InputError: if a modality had no content, or a part no gradient, for too long.
        """
        # one reduction of everything: ranks wait for each other once in a window
        state = (self.table.state, self.sigma, self.content, self.norms)
        summed = reduce(torch.cat([part.flatten() for part in state]))
        pieces = torch.split(summed, [part.numel() for part in state])
        self.table.state, sigma, content, norms = (
            piece.view_as(part) for piece, part in zip(pieces, state, strict=True)
        )
        logs = {f"loss/{name}": value for name, value in self.table.means().items()}
        (sums, counts), clips = sigma.tolist(), content.tolist()
        for m, modality in enumerate(MODALITIES):
            if modality in self.modalities:
                logs[f"clips_with_{_CONTENT[modality]}"] = clips[1 + m]
                logs[f"rows/{modality}"] = counts[m]
                # counted in steps: windows need not be equally long
                self._empty_steps[modality] = 0 if clips[1 + m] else self._empty_steps[modality] + self.num_steps
            if counts[m]:
                logs[f"sigma/{modality}"] = sums[m] / counts[m]
        logs["clips"] = clips[0]
        for part, total, count in zip(self.parts, *norms.tolist(), strict=True):
            if count:
                logs[f"grad_norm/{part}"] = total / count
                self._idle_steps[part] = 0 if total else self._idle_steps[part] + self.num_steps
        self._start(self.content.device)
        # after the logs are made: every rank has the same sums, so all stop together
        self._check()
        return logs

    def _check(self) -> None:
        for modality, steps in self._empty_steps.items():
            if steps >= self.patience:
                raise InputError(
                    f"{modality} is trained, but no clip of the last {steps} steps carried {_CONTENT[modality]}: "
                    f"{_FIX[modality]}."
                )
        for part, steps in self._idle_steps.items():
            if steps >= self.patience:
                raise InputError(
                    f"the {part} part of the transformer is trained, but had no gradient in the last {steps} steps: "
                    "freeze it, or give a task that reaches it a probability and a weight."
                )
