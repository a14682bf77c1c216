"""Regional compilation: `torch.compile` for the blocks of a transformer, each by itself and in place.

Blocks of one kind share what is compiled, so that a deep transformer compiles as fast as a shallow one.
`nn.Module.compile` leaves modules what they are: names of parameters, sharding, adapters and copies are those of the
eager transformer.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from components.errors import InputError
from components.weights.pretrained import builds_shapes_only

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


@dataclass(frozen=True)
class CompileConfig:
    """Arguments of `torch.compile`, by its names.

    Attributes:
        mode: what inductor optimises for.
        dynamic: true compiles for all lengths at once, false every length by itself; null compiles the first length by
            itself and all lengths when a second one comes.
        backend: ``inductor``, which needs a C++ compiler (on a GPU as well), or another of PyTorch's, such as
            ``aot_eager`` to look for faults.
        fullgraph: refuse what would split a block into several graphs.

    Raises:
        InputError: if a mode is given to a backend that has none, the backend is unknown, or inductor has no compiler.
    """

    mode: CompileMode = "default"
    dynamic: bool | None = None
    backend: str = "inductor"
    fullgraph: bool = False

    def __post_init__(self) -> None:
        if self.backend == "inductor":
            compiler = os.environ.get("CXX", "g++")  # inductor's own choice
            if shutil.which(compiler) is None:
                raise InputError(
                    f"compile.backend is inductor, which needs a C++ compiler, and {compiler} is not installed: "
                    "install it, name another in CXX, or leave compile out."
                )
            return
        if self.mode != "default":
            raise InputError(
                f"compile.mode is {self.mode}, which is inductor's, but compile.backend is {self.backend}: leave one "
                "of them out."
            )
        known = torch.compiler.list_backends(exclude_tags=())
        if self.backend not in known:
            raise InputError(f"compile.backend is {self.backend!r}: give one of {', '.join(known)}.")

    @property
    def arguments(self) -> dict[str, Any]:
        """For `torch.compile`."""
        given: dict[str, Any] = {"backend": self.backend, "fullgraph": self.fullgraph, "dynamic": self.dynamic}
        return given if self.mode == "default" else given | {"mode": self.mode}


def compile_blocks(blocks: Iterable[nn.Module], config: CompileConfig, split_by: str | None = None) -> None:
    """Have every block compiled in place when it first runs; what is compiled serves all blocks of its kind.

    Where shapes alone are built (``with torch.device("meta")``) there is nothing to be made faster.

    Args:
        blocks: of a transformer.
        config: how.
        split_by: why a block is more than one graph, or None if it is one.

    Raises:
        InputError: if the configuration refuses what the blocks cannot do without.
    """
    if config.fullgraph and split_by is not None:
        raise InputError(f"compile.fullgraph is true, but {split_by}: leave fullgraph out.")
    if builds_shapes_only():
        return
    # Beyond PyTorch's limit of 8 a block would run eagerly, with no more than a warning. One piece of code has a graph
    # for each of: gradients or not, frozen blocks' precision, the last block, columns of a step; by one length, by all.
    torch.compiler.config.recompile_limit = max(torch.compiler.config.recompile_limit, 64)
    for block in blocks:
        block.compile(**config.arguments)
