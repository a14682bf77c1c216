"""Says in one sentence why a run cannot go on, where the reason is something the user gave."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from components.errors import InputError

_MAX_LISTED = 10
_SIZE = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\((.*?)\) from checkpoint, "
    r"the shape in current model is torch\.Size\((.*?)\)"
)


def input_error_sentence(error: BaseException) -> str | None:
    """The sentence of the `InputError` that caused ``error``, or None if something else did.

    The configuration parser re-raises what a constructor raises, and a data loader's worker process sends its
    traceback as the message of a new exception of the same class.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MisconfigurationException):
            return " ".join(str(cause).split())
        if isinstance(cause, InputError):
            return str(cause).rpartition(f"{InputError.__name__}: ")[2].strip()
        cause = cause.__cause__
    return None


def check_checkpoint(path: str) -> None:
    """Finds a wrong path or a truncated file before anything is built.

    Args:
        path: the value of ``ckpt_path``; Lightning's words ``best``, ``last`` and ``hpc`` pass.

    Raises:
        InputError: if there is no such file, or it is not whole (a checkpoint is a zip file, whose index comes last).
    """
    if path in ("best", "last", "hpc"):
        return
    if not Path(path).exists():
        raise InputError(f"ckpt_path: checkpoint '{path}' does not exist; give the path of a .ckpt file")
    if Path(path).is_file() and not zipfile.is_zipfile(path):
        raise InputError(f"ckpt_path: '{path}' is truncated or no checkpoint; give another .ckpt file")


def checkpoint_error_sentence(error: BaseException, path: str) -> str | None:
    """What a failed load says about the checkpoint at ``path``, or None if ``error`` is about something else."""
    if isinstance(error, KeyError) and error.args[:1] in (("state_dict",), ("pytorch-lightning_version",)):
        return f"ckpt_path: '{path}' holds no training checkpoint (it lacks '{error.args[0]}'); give a .ckpt file"
    message = str(error)
    if not isinstance(error, RuntimeError) or "loading state_dict" not in message:
        return None
    kinds = {
        "missing": _keys(message, "Missing key(s) in state_dict:"),
        "unexpected": _keys(message, "Unexpected key(s) in state_dict:"),
        "of another shape": [f"{key} (file {found}, model {wanted})" for key, found, wanted in _SIZE.findall(message)],
    }
    differences = "; ".join(_listed(kind, keys) for kind, keys in kinds.items() if keys)
    return (
        f"ckpt_path: '{path}' does not fit the configured model ({differences}); "
        "use the configuration the checkpoint was trained with"
    )


def _keys(message: str, title: str) -> list[str]:
    lines = [line for line in message.splitlines() if title in line]
    return re.findall(r'"([^"]+)"', lines[0].partition(title)[2]) if lines else []


def _listed(kind: str, keys: list[str]) -> str:
    more = f" and {len(keys) - _MAX_LISTED} more" if len(keys) > _MAX_LISTED else ""
    return f"{len(keys)} {kind}: {', '.join(keys[:_MAX_LISTED])}{more}"
