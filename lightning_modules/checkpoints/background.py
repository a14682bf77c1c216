"""Checkpoints written while training goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.checkpoints.atomic import AtomicCheckpointIO
from lightning_modules.checkpoints.sharded import remove
from lightning_modules.checkpoints.storage import not_written, storage_error, told_written


class BackgroundWriter:
    """One thread that does what it is given, one after the other."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._pending: list[Future[None]] = []

    def wait(self) -> None:
        """Until all is done.

        Raises:
            Exception: what went wrong first since the last call.
        """
        pending, self._pending = self._pending, []
        wait(pending)
        for future in pending:
            future.result()

    def submit(self, write: Callable[[], None]) -> None:
        """Do ``write`` in the background.

        Call `wait` before what it writes is copied: two copies would take twice the memory. An error is said in the
        log at once, and raised by the next `wait`.
        """

        def told() -> None:
            try:
                write()
            except BaseException as error:
                rank_zero_info(f"a checkpoint could not be written, and the next one ends the run: {error}")
                raise

        self._put(told)

    def after(self, task: Callable[[], None]) -> None:
        """Do ``task`` once everything before it has ended well; at once if there is nothing.

        What went wrong before is left to the next `wait`, to which all processes come: this may be for one of them.
        """
        before = tuple(self._pending)

        def if_well() -> None:
            if not any(future.exception() for future in before):
                task()

        if all(future.done() for future in before):
            if_well()
        else:
            self._put(if_well)

    def close(self) -> None:
        """`wait`, and end the thread; a later `submit` begins another one."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def _put(self, task: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._pending.append(self._thread.submit(task))


class BackgroundCheckpointIO(AtomicCheckpointIO):
    """Copies a checkpoint into the memory of the CPU, which training waits for, and writes it while training goes on.

    Of files and, with `FSDP2Strategy`, of folders. A process takes the memory of one copy of what it writes: the first
    one that of a file, every one that of its part of a folder. (Of a file that sharded training gathers the first one
    has a second copy while training waits.) The next checkpoint waits for the one before. All promises of
    `AtomicCheckpointIO` hold:

    - a checkpoint has its name once it is whole, with its checksums, and on the disk;
    - one that it replaces is removed after that, so that a run killed meanwhile has the one before;
    - loading, and the end of training however it comes, wait for what is being written;
    - what goes wrong is said in the log at once and raised by whatever comes next: the next checkpoint, or the end.

    A link such as ``last.ckpt`` (``save_last: link``) is renewed before what it names is whole: until then, and in a
    run that was killed meanwhile, it leads nowhere. ``--ckpt_path last`` passes over such links.
    """

    # Lightning's AsyncCheckpointIO removes the checkpoint before when the new one has not been written yet, loads
    # without waiting, and copies on the device.

    def __init__(self) -> None:
        super().__init__()
        self.writer = BackgroundWriter()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object | None = None
    ) -> None:
        """As `AtomicCheckpointIO.save_checkpoint`, later.

        Raises:
            TypeError: if storage options are given.
            InputError: if the disk has refused the checkpoint before.
        """
        if storage_options is not None:
            raise TypeError("BackgroundCheckpointIO writes local files and takes no storage options")
        begun = time.monotonic()
        self.writer.wait()
        held, path = copied(checkpoint), Path(path)
        _make_folder(path, checkpoint)
        waited_s = time.monotonic() - begun

        def write() -> None:
            self.write(held, path)
            told_written(path, begun, waited_s)

        self.writer.submit(write)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """As `AtomicCheckpointIO.load_checkpoint`, once all is written."""
        self.writer.wait()
        return super().load_checkpoint(path, map_location, weights_only)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, file or folder, once the one that replaces it is whole."""
        self.writer.after(lambda: remove(Path(path)))

    def teardown(self) -> None:
        """Waits for what is being written.

        Raises:
            InputError: if the disk has refused it.
        """
        self.writer.close()


def _make_folder(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Now and not by the thread: Lightning puts a link into it without waiting."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refused = storage_error(error)
        if refused is None:
            raise
        raise not_written(path, checkpoint, refused) from error


def copied(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with tensors in the memory of the CPU, shards as shards; what shares memory goes on doing so."""
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions  # slow, and only saving needs it

    stager = DefaultStager(StagingOptions(*[False] * 4))
    try:
        copy: Any = stager.stage(dict(checkpoint))
    finally:
        stager.close()
    return dict(copy)
