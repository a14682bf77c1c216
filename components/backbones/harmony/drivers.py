"""What a modality that drives tells the other one: computed in the first sampling step and kept for all others.

With `InteractionConfig.driver_isolated` a clean modality receives nothing from the noisy one, so that its features are
the same in every step. The noisy one sees them through the keys and values of every layer's interaction alone: these
are kept, and from the second step on the rows that drive are left out of their tower.

Legend: R rows of the batch, of which each modality runs some (live) and keeps the others (driving).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from components.contracts import MODALITIES, Modality, TextFeatures


class DriverFeatures:
    """Keys, values and noise levels of the rows that drive, filled by the first forward pass that is handed them.

    A plain class, so that sharding leaves its tensors alone.

    Args:
        num_rows: R.
        driving: by modality, which rows drive.

    Attributes:
        filled: a forward pass has been here; the next ones leave out the rows that drive.
    """

    def __init__(self, num_rows: int, driving: Mapping[Modality, Sequence[int]]) -> None:
        self.filled = False
        self._streams: dict[Modality, Any] = {}
        self.num_rows = num_rows
        self.driving = {side: sorted(driving.get(side, ())) for side in MODALITIES}
        self._live = {side: sorted(set(range(num_rows)) - set(rows)) for side, rows in self.driving.items()}
        self._kept: dict[tuple[Modality, Hashable], tuple[Tensor, ...]] = {}
        self._places: dict[tuple[object, ...], Tensor] = {}

    def is_live(self, side: Modality) -> bool:
        """Whether the modality has rows to run in this pass."""
        return not self.filled or bool(self._live[side])

    def stream(self, side: Modality, now: Any) -> Any:
        """What the model knows of a modality: of this pass, or of the first one where all of its rows are kept."""
        if now is not None and not self.filled:
            self._streams[side] = now
        return self._streams.get(side) if now is None else now

    def live(self, side: Modality, rows: Any) -> Any:
        """The rows of a tensor or of texts ``[R, ...]`` that the modality runs in this pass."""
        if rows is None or not self.filled or not self.driving[side]:
            return rows
        if isinstance(rows, TextFeatures):
            return TextFeatures(self.live(side, rows.tokens), self.live(side, rows.mask))
        return rows[self._at("live", side, self._live[side], rows.device)]

    def all_rows(self, side: Modality, live: Tensor | None) -> Tensor | None:
        """Outputs ``[R, ...]`` of all rows from those that ran, zero for the others; None if none ran."""
        if live is None or not self.filled or not self.driving[side]:
            return live
        out = live.new_zeros(self.num_rows, *live.shape[1:])
        return out.index_copy_(0, self._at("live", side, self._live[side], live.device), live)

    # Not compiled: what is kept grows from layer to layer, and each would have graphs of its own.
    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch's own
    def complete(self, side: Modality, layer: Hashable, told: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        """What ``side`` tells the other modality's rows in one layer.

        Args:
            side: the modality that tells.
            layer: whose features they are.
            told: those of the rows that ran, ``[rows, ...]`` each; None if none ran.

        Returns:
            Those of the rows that the other modality runs.
        """
        rows = self.driving[side]
        if not self.filled:
            assert told is not None
            if rows:
                at = self._at("driving", side, rows, told[0].device)
                self._kept[side, layer] = told if len(rows) == self.num_rows else tuple(t[at] for t in told)
            return told
        kept = self._kept.get((side, layer), ())
        other: Modality = "audio" if side == "video" else "video"
        # rows that ran come first, kept ones behind them
        have = [*self._live[side], *rows]
        order = [have.index(row) for row in self._live[other]]
        both = kept if told is None else told if not kept else tuple(map(torch.cat, zip(told, kept, strict=True)))
        if order == list(range(len(have))):
            return both
        at = self._at("order", side, order, both[0].device)
        return tuple(t[at] for t in both)

    def _at(self, what: str, side: Modality, rows: Sequence[int], device: torch.device) -> Tensor:
        # made once: an index that is built from a list waits for the device
        key = (what, side, device)
        if key not in self._places:
            self._places[key] = torch.tensor(rows, dtype=torch.long, device=device)
        return self._places[key]
