"""Checkpoint files that appear whole or not at all, whatever kills the process."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lightning_modules.checkpoints.sharded import is_sharded_checkpoint, read_whole, remove
from lightning_modules.checkpoints.storage import not_written, storage_error


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
        path = Path(path)
        try:
            self._write(checkpoint, path)
        except Exception as error:
            if (refused := storage_error(error)) is None:
                raise
            raise not_written(path, checkpoint, refused) from error

    def _write(self, checkpoint: dict[str, Any], path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # beside the target: a rename across file systems would be a copy
        partial = path.with_name(f".{path.name}.part")
        try:
            with partial.open("wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                # the data first: a rename that reaches the disk before it would leave an empty file after a power cut
                os.fsync(stream.fileno())
            # a file cannot replace a folder, such as a sharded checkpoint of the same name
            if path.is_dir():
                remove(path)
            partial.replace(path)
        # KeyboardInterrupt and SystemExit too: no half file stays behind
        except BaseException:
            with contextlib.suppress(OSError):  # a disk that has become read-only: the first error says more
                partial.unlink(missing_ok=True)
            raise
        # and the name itself, which belongs to the folder
        sync_folder(path.parent)

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


def sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
