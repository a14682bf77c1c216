"""Checkpoint files that appear whole or not at all, whatever kills the process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from components.weights.whole_file import sync_stream, whole_file
from lightning_modules.checkpoints.sharded import is_sharded_checkpoint, read_whole, remove
from lightning_modules.checkpoints.storage import not_written, storage_error, told_written


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target under a dot-name, waits for the disk, then renames.

    It needs no room outside the checkpoint's own folder and no second copy in memory. Loading maps the file, so only
    what is used is read, and accepts sharded checkpoint folders too.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object | None = None
    ) -> None:
        """Write ``checkpoint`` to ``path``, replacing what is there.

        Raises:
            TypeError: if storage options are given.
            InputError: if the disk is full or refuses; what was at ``path`` is still there, and nothing half written.
        """
        if storage_options is not None:
            raise TypeError("AtomicCheckpointIO writes local files and takes no storage options")
        begun = time.monotonic()
        self.write(checkpoint, Path(path))
        told_written(Path(path), begun)

    def write(self, checkpoint: dict[str, Any], path: Path) -> None:
        """What `save_checkpoint` does, without saying so."""
        try:
            with whole_file(path) as stream:
                torch.save(checkpoint, stream)
                # a file cannot replace a folder, such as a sharded checkpoint of the same name
                if path.is_dir():
                    sync_stream(stream)
                    remove(path)
        except Exception as error:
            if (refused := storage_error(error)) is None:
                raise
            raise not_written(path, checkpoint, refused) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The checkpoint at ``path``, on the CPU unless said otherwise; a sharded one is put together.

        Raises:
            FileNotFoundError: if there is none.
        """
        path = Path(path)
        if is_sharded_checkpoint(path):
            return read_whole(path)
        if not path.is_file():
            raise FileNotFoundError(f"checkpoint '{path}' does not exist")
        result: dict[str, Any] = torch.load(
            path, map_location or "cpu", weights_only=weights_only is not False, mmap=True
        )
        return result

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, file or folder."""
        remove(Path(path))
