"""Counts what processes gather from each other."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Collectives(TorchDispatchMode):
    """Counts all-gathers of sharded weights inside the block, in ``gathers``."""

    def __init__(self) -> None:
        super().__init__()
        self.gathers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.gathers += "_allgather_base_" in str(function)
        return function(*args, **(kwargs or {}))
