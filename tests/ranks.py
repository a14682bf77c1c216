"""Processes of a gloo group that are copies of this one, so that they need not import everything anew."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


def run_ranks(world: int, task: Callable[..., None], *given: Any) -> None:
    """``task(rank, *given)`` in ``world`` processes; raises what any of them raised.

    Lightning takes them for processes that somebody has started for it; a task without a trainer joins by `joined`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.start_processes(_run, (world, port, task, given), nprocs=world, start_method="fork")


def _run(rank: int, world: int, port: int, task: Callable[..., None], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)  # threads of the process this one is a copy of are not there
    place = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    try:
        task(rank, *given)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def joined() -> None:
    """Joins the group of the processes of `run_ranks`."""
    dist.init_process_group("gloo")
