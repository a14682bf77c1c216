"""Runs a function on two gloo ranks."""

import tempfile
from pathlib import Path

import torch.distributed as dist

from tests.processes import SERVED, served


def _rank(function, rank, store, queue=None):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        found = function(rank)
        dist.barrier()
    finally:
        dist.destroy_process_group()
    if queue is not None:
        queue.put(found)
    return found


def on_two_ranks(function):
    """What ``function(rank)``, a function of a module, returns on rank 0 (this process) and on rank 1 (another)."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        queue = SERVED.SimpleQueue()
        other = served(_rank, function, 1, store, queue)
        other.start()
        here = _rank(function, 0, store)
        there = queue.get()
        other.join()
        assert other.exitcode == 0
    return here, there
