"""The most memory a computation holds at a time: counted tensor by tensor, or as the GPU's allocator saw it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


class LiveBytes(TorchDispatchMode):
    """Follows every storage that operations make until it is freed; works on the meta device too.

    What was there before does not count, nor does the working memory inside one operation.

    Attributes:
        live: bytes held now.
        peak: most bytes held at a time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch annotates nothing here
        self.live = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _key(leaf) not in given:  # not a view, not written in place
                self._follow(leaf.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def freed(_: object) -> None:
            self.live -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def with_peak_bytes(action: Callable[[], T], device: str) -> tuple[T, int]:
    """What ``action`` returns, and the most bytes of tensors it holds at a time beyond what was there before.

    The result counts. On a GPU it is the allocator's figure, which includes the working memory of the kernels.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = action()
        torch.cuda.synchronize(device)
        return result, torch.cuda.max_memory_allocated(device) - before
    with LiveBytes() as live:
        result = action()
    return result, live.peak
