"""Says what a disk refused, and how much room there was."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from components.errors import InputError

_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and those behind it, the last one first."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        # what was raised while another was handled hides it: torch's own complaint, a full disk
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def storage_error(error: BaseException) -> OSError | None:
    """What the disk said, if it is behind ``error``: full, too large a file, read-only, no permission, broken."""
    found = (cause for cause in causes(error) if isinstance(cause, OSError) and cause.errno in _REFUSED)
    return next(found, None)


def not_written(path: Path, checkpoint: Mapping[str, object], error: OSError) -> InputError:
    """The sentence about a checkpoint that could not be written; what was written of it must be gone already."""
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        free = f"{amount(shutil.disk_usage(folder).free)} free"
    except OSError:
        free = "an unknown amount free"
    return InputError(
        f"checkpoint '{path}' cannot be written: {error.strerror} (about {amount(_tensor_bytes(checkpoint))} needed, "
        f"{free} on that file system); checkpoints written before are as they were: make room or give another folder, "
        "then go on with --ckpt_path last"
    )


def _tensor_bytes(item: object) -> int:
    """Bytes of all tensors in a nested structure; everything else is small beside them."""
    if isinstance(item, Tensor):
        return item.numel() * item.element_size()
    if isinstance(item, Mapping):
        return sum(map(_tensor_bytes, item.values()))
    return sum(map(_tensor_bytes, item)) if isinstance(item, list | tuple) else 0


def told_written(path: Path, begun: float, waited_s: float | None = None) -> None:
    """Says in the log how large a checkpoint is and how long it took; parts of other files (dot-names) are passed over.

    Args:
        path: file or folder, whole.
        begun: `time.monotonic` when saving began.
        waited_s: how long training waited, where the rest was done in the background.
    """
    if path.name.startswith("."):
        return
    size = sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size
    behind = "" if waited_s is None else f", of which training waited {waited_s:.1f} s"
    rank_zero_info(f"wrote {path}: {amount(size)} in {time.monotonic() - begun:.1f} s{behind}")


def amount(size: int) -> str:
    """Bytes in words."""
    return f"{size:,} bytes" if size < 2**20 else f"{size / 2**20:,.1f} MiB"
