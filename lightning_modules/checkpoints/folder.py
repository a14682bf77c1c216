"""Checkpoint folders that appear whole or not at all, written by all processes together."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from components.errors import InputError
from components.weights.whole_file import sync_folder
from lightning_modules.checkpoints.sharded import of_all_ranks, remove, write_rest, write_tensors
from lightning_modules.checkpoints.storage import not_written, storage_error


class FolderWrite:
    """One checkpoint on its way to the disk; every rank makes one, and calls the same methods.

    What happens to the first rank alone is raised by all, so that none waits for one that is gone.

    Args:
        path: what the folder is to be called; what is there stays until the new one is whole.
        is_global_zero: whether this is the first rank.
        group: through which the ranks agree, of a backend that knows the CPU; None for the default one.
    """

    def __init__(self, path: Path, is_global_zero: bool, group: dist.ProcessGroup | None = None) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.part")
        self.is_global_zero = is_global_zero
        self.group = group

    def begin(self) -> None:
        """Make an empty folder under a dot-name; no rank writes before it is there."""

        def make() -> None:
            if self.partial.exists():
                remove(self.partial)
            self.partial.mkdir(parents=True)

        self._first_rank(make, {})

    def finish(self, checkpoint: Mapping[str, Any]) -> None:
        """Write this rank's part of ``checkpoint``; when all have, the folder gets its name.

        Raises:
            InputError: if the disk is full or refuses; what was there before still is, and nothing half written.
        """
        try:
            rest = write_tensors(checkpoint, self.partial, self.group)
        except BaseException as error:
            # PyTorch tells every rank what each of them met
            met = [error, *(one for one, _ in getattr(error, "failures", {}).values())]
            refused = next(filter(None, map(storage_error, met)), None)
            if refused is None:
                raise
            raise self._refused(checkpoint, refused) from error

        def name() -> None:
            write_rest(rest, self.partial)
            # two renames: a folder replaces neither one that is not empty nor a link, be it to nothing
            replaced = self.path.with_name(f".{self.path.name}.old")
            if self.path.exists() or self.path.is_symlink():
                remove(replaced)  # left by a process that was killed right here
                self.path.rename(replaced)
            self.partial.rename(self.path)
            sync_folder(self.path.parent)
            remove(replaced)

        self._first_rank(name, checkpoint)

    def _first_rank(self, task: Callable[[], None], checkpoint: Mapping[str, Any]) -> None:
        """Run ``task`` on the first rank while the others wait, and raise on all what it raises."""
        error: Exception | None = None
        if self.is_global_zero:
            try:
                task()
            except Exception as raised:
                refused = storage_error(raised)
                error = raised if refused is None else self._refused(checkpoint, refused)
        said = of_all_ranks(None if error is None else str(error), self.group)[0]
        if error is not None:
            raise error
        if said is not None:
            raise InputError(said)

    def _refused(self, checkpoint: Mapping[str, Any], refused: OSError) -> InputError:
        if self.is_global_zero:
            shutil.rmtree(self.partial, ignore_errors=True)
        return not_written(self.path, checkpoint, refused)
