"""Tasks that all processes of a gloo group run, and that must succeed in each."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from tests import processes


def run_ranks(world: int, task: Callable[..., None], *given: Any) -> None:
    """``task(rank, *given)`` in ``world`` processes; fails with what any of them said that did not succeed.

    Lightning takes them for processes that somebody has started for it; a task without a trainer joins by `joined`.
    """
    for ended in processes.run_ranks(_run, (task, given), world):
        assert ended.status == 0, ended.said


def _run(task: Callable[..., None], given: tuple[Any, ...]) -> None:
    try:
        task(int(os.environ.get("RANK", "0")), *given)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def joined() -> None:
    """Joins the group of the processes of `run_ranks`."""
    dist.init_process_group("gloo")
