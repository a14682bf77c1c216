"""Says in one sentence what is wrong with a checkpoint the user gave: before it is loaded, and where loading fails."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Literal

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from components.errors import InputError
from lightning_modules.checkpoints.sharded import META_FILE, check_files, code_in, is_sharded_checkpoint, read_table

_MAX_LISTED = 10
_PARTS = ("state_dict", "pytorch-lightning_version")
_UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError, TypeError, IndexError)
_SIZE = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\((.*?)\) from checkpoint, "
    r"the shape in current model is torch\.Size\((.*?)\)"
)
_FIX = "give a .ckpt file"

Content = Literal["once", "everywhere", "nowhere"]
"""Which processes of a machine read all of a checkpoint."""


def check_checkpoint(path: str, option: str = "ckpt_path", content: Content = "once") -> None:
    """Finds a wrong path, a damaged file or one of something else before anything is built.

    The whole file is read once, by the first process of a machine, and compared with the checksums it holds: a block
    that the disk has lost would otherwise become weights. The files of a folder are compared when they are loaded,
    where all processes share the reading of them; here only ``everywhere``.

    Args:
        path: the value of ``option``; Lightning's words ``best``, ``last`` and ``hpc`` pass, and files with code in
            them, which may be trusted (``weights_only: false``). Folders with code never do.
        option: what the user gave it as.
        content: who reads it; ``nowhere``, all come to the same answer by what a file or folder says of itself.

    Raises:
        InputError: if there is no such file, it is not whole (a checkpoint is a zip file, whose index comes last), it
            is a folder that is damaged or holds code, or it is no training checkpoint.
    """
    if path in ("best", "last", "hpc"):
        return
    check_exists(path, option)
    if Path(path).is_dir():
        _check_folder(Path(path), option, with_files=content == "everywhere")
        return
    if not zipfile.is_zipfile(path):
        raise InputError(f"{option}: '{path}' is truncated or no checkpoint; give another .ckpt file")
    sentence = _content_problem(path, option)
    if sentence is None and (content == "everywhere" or (content == "once" and _is_first_of_machine())):
        sentence = _lost_blocks(path, option)
    if sentence is not None:
        raise InputError(sentence)


def check_exists(path: str, option: str = "ckpt_path") -> None:
    """Finds a wrong path without reading anything.

    Raises:
        InputError: if there is nothing at ``path``.
    """
    if Path(path).is_symlink() and not Path(path).exists():
        raise InputError(
            f"{option}: '{path}' is a link to '{Path(path).readlink()}', which is not there (removed, or its run was "
            f"killed while it was written); give {option} last for the newest whole checkpoint, or another path"
        )
    if not Path(path).exists():
        raise InputError(f"{option}: checkpoint '{path}' does not exist; give the path of a .ckpt file")


def _check_folder(path: Path, option: str, with_files: bool) -> None:
    if not is_sharded_checkpoint(path):
        raise InputError(
            f"{option}: '{path}' is a folder without a checkpoint (it lacks {META_FILE}); give a .ckpt file, or a "
            "folder that sharded training has written"
        )
    try:
        rest, index = read_table(path)
        if with_files:
            check_files(path, rest)
    except InputError as error:
        raise InputError(f"{option}: {error}") from None
    if _PARTS[1] not in rest or not any(name.startswith(f"{_PARTS[0]}.") for name in index.state_dict_metadata):
        raise InputError(f"{option}: '{path}' holds no training checkpoint; {_FIX}")


def _content_problem(path: str, option: str) -> str | None:
    """What is wrong with the content of a checkpoint file, or None."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        # code in the pickle may be trusted by the user; anything else is damage
        return None if code_in(error) else _damaged(path, option)
    except _UNREADABLE:
        return _damaged(path, option)
    lacking = [part for part in _PARTS if not isinstance(content, dict) or part not in content]
    return f"{option}: '{path}' holds no training checkpoint (it lacks '{lacking[0]}'); {_FIX}" if lacking else None


def _is_first_of_machine() -> bool:
    """By what torchrun, Lightning or ``srun`` has told this process."""
    of_slurm = os.environ.get("SLURM_LOCALID", "0") if SLURMEnvironment.detect() else "0"
    return os.environ.get("LOCAL_RANK", of_slurm) == "0"


def _lost_blocks(path: str, option: str) -> str | None:
    """What is wrong with the bytes of a checkpoint file: a zip file holds a checksum of every tensor."""
    try:
        with zipfile.ZipFile(path) as records:
            lost = records.testzip()
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError):  # zipfile's word for an unknown compression
        return _damaged(path, option)
    return f"{option}: '{path}' is damaged (the checksum of {lost} is wrong); give another .ckpt file" if lost else None


def _damaged(path: str, option: str) -> str:
    return f"{option}: '{path}' is damaged; give another .ckpt file"


def checkpoint_error_sentence(error: BaseException, path: str, option: str = "ckpt_path") -> str | None:
    """What a failed load says about the checkpoint at ``path``, or None if ``error`` is about something else.

    Args:
        error: what loading raised.
        path: the value of ``option``.
        option: what the user gave it as.
    """
    message = str(error)
    if isinstance(error, KeyError) and error.args[:1] in [(part,) for part in _PARTS]:
        return f"{option}: '{path}' holds no training checkpoint (it lacks '{error.args[0]}'); {_FIX}"
    if isinstance(error, KeyError) and "Trying to restore" in message:  # of a checkpoint without the optimizer's state
        # such as a slim checkpoint, which has no optimizer state
        return (
            f"{option}: '{path}' holds weights alone, with which no training can go on; give a checkpoint that fit "
            "has written to go on from, such as last.ckpt"
        )
    if isinstance(error, pickle.UnpicklingError):
        code = code_in(error)
        holds = f"holds code ({code}), which is not run; give one that avsync fit has written" if code else None
        return f"{option}: '{path}' {holds}" if holds else _damaged(path, option)
    if isinstance(error, FileNotFoundError) and path in message:
        return f"{option}: '{path}' holds no checkpoint; {_FIX}"
    if isinstance(error, ValueError) and "ckpt_path=" in message:  # Lightning cannot tell which is the best or last
        return f"ckpt_path: {' '.join(message.split())}"
    if not isinstance(error, RuntimeError) or "loading state_dict" not in message:
        return None
    kinds = {
        "missing": _keys(message, "Missing key(s) in state_dict:"),
        "unexpected": _keys(message, "Unexpected key(s) in state_dict:"),
        "of another shape": [f"{key} (file {found}, model {wanted})" for key, found, wanted in _SIZE.findall(message)],
    }
    differences = "; ".join(_listed(kind, keys) for kind, keys in kinds.items() if keys)
    return (
        f"{option}: '{path}' does not fit the configured model ({differences}); "
        "use the configuration the checkpoint was trained with"
    )


def _keys(message: str, title: str) -> list[str]:
    lines = [line for line in message.splitlines() if title in line]
    return re.findall(r'"([^"]+)"', lines[0].partition(title)[2]) if lines else []


def _listed(kind: str, keys: list[str]) -> str:
    more = f" and {len(keys) - _MAX_LISTED} more" if len(keys) > _MAX_LISTED else ""
    return f"{len(keys)} {kind}: {', '.join(keys[:_MAX_LISTED])}{more}"
