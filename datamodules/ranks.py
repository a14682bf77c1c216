"""Which share of the data a process gets."""

from __future__ import annotations

import lightning as L

from components.errors import InputError


def rank_and_world_size(trainer: L.Trainer | None) -> tuple[int, int]:
    """The process's rank and the number of processes (0 and 1 without a trainer).

    Raises:
        InputError: Lightning would put its own sampler in place of the data module's.
    """
    if trainer is None:
        return 0, 1
    connector = getattr(trainer, "_accelerator_connector", None)
    if trainer.world_size > 1 and getattr(connector, "use_distributed_sampler", False):
        raise InputError(
            "trainer.use_distributed_sampler is true; set it to false: the data module itself deals clips to the ranks"
        )
    return trainer.global_rank, trainer.world_size
