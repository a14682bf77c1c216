"""Which weights a module holds: the name they were asked for by and the SHA-256 of their bytes.

Scores and prepared features are comparable only under equal weights, so reports, caches and checkpoints carry this.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from components.errors import InputError

SUMS_FILE = "SHA256SUMS"
"""Beside what we export: digests in the form that ``sha256sum -c`` reads."""
_ATTRIBUTE = "_weights_identity"
_REMEMBERED_BYTES = 32 * 2**20
"""Files from this size on are hashed once and remembered on disk; smaller ones take milliseconds."""
_SETTLED_NS = 2 * 10**9
"""A file that changed less than this ago may change once more within the same tick of the file system's clock."""
_hashed: dict[tuple[str, int, int, int], str] = {}
"""Digests of this process by path, size and times of change: a loader, its check and its identity ask for the same."""


@dataclass(frozen=True)
class Identity:
    """What weights are.

    Attributes:
        name: what they were asked for by, such as ``rain1011/pyramid-flow-miniflux/diffusion_transformer_384p``, or
            the module's class where they came from no file.
        sha256: hex digest of the weight file (as ``sha256sum`` prints it), of several files, or of the tensors.
    """

    name: str
    sha256: str


def record_identity(module: nn.Module, name: str, files: Iterable[Path]) -> Identity:
    """Stores on ``module`` that its weights are those of ``files``; what loads weights calls this.

    Args:
        module: has just been loaded.
        name: what the weights were asked for by.
        files: the weight files, in any order. The digest of one is its own; that of several is taken over their
            sorted names and digests.

    Raises:
        InputError: if a file cannot be read.
    """
    files = [file.absolute() for file in files]
    root = os.path.commonpath([file.parent for file in files])  # files of several folders may share a name
    digests = {file.relative_to(root).as_posix(): sha256_of(file) for file in files}
    if len(digests) == 1:
        (digest,) = digests.values()
    else:
        lines = "".join(f"{digests[file]}  {file}\n" for file in sorted(digests))
        digest = hashlib.sha256(lines.encode()).hexdigest()
    identity = Identity(name, digest)
    setattr(module, _ATTRIBUTE, identity)
    return identity


def inherit_identity(module: nn.Module, part: nn.Module) -> None:
    """Lets ``module``, which adds no weights of its own, have the recorded identity of its ``part`` (if any)."""
    recorded = recorded_identity(part)
    if recorded is not None:
        setattr(module, _ATTRIBUTE, recorded)


def assume_identity(module: nn.Module, identity: Identity) -> None:
    """Stores on ``module``, whose weights are not read, what they are known to be."""
    setattr(module, _ATTRIBUTE, identity)


def recorded_identity(module: nn.Module) -> Identity | None:
    """What was recorded when ``module`` was loaded; None for a module that came from no file."""
    recorded = getattr(module, _ATTRIBUTE, None)
    return recorded if isinstance(recorded, Identity) else None


def forget_identity(module: nn.Module) -> None:
    """``module`` has been given other weights than those of its files; from now on its tensors say what it is."""
    if hasattr(module, _ATTRIBUTE):
        delattr(module, _ATTRIBUTE)


def identity_of(module: nn.Module, tensors: Mapping[str, Tensor] | None = None) -> Identity:
    """The identity of the weights ``module`` was loaded with, else of the tensors it holds now.

    A recorded identity is that of the loaded files: training ``module`` further does not change it.

    Args:
        module: what to identify.
        tensors: what counts of a module that was not loaded, by default its ``state_dict``.
    """
    recorded = recorded_identity(module)
    if recorded is not None:
        return recorded
    return Identity(type(module).__name__, sha256_of_tensors(module.state_dict() if tensors is None else tensors))


def sha256_of(file: str | Path, notes: bool = True) -> str:
    """Hex SHA-256 of a file's bytes.

    A process hashes a file once. Digests of large files are also kept in ``$XDG_CACHE_HOME/avsync/sha256``
    (``~/.cache`` by default) under path, size and time of change, so that gigabytes are not read at every start.

    Args:
        file: any file.
        notes: use what an earlier process has remembered, and remember; without, the file is read, which also finds
            what a disk has lost since.

    Raises:
        InputError: if the file cannot be read.
    """
    file = Path(file)
    try:
        with file.open("rb") as stream:
            # size and time before and after: a file that is being written must not be remembered
            before = os.fstat(stream.fileno())
            key = (str(file.resolve()), before.st_size, before.st_mtime_ns, before.st_ctime_ns)
            if key in _hashed:
                return _hashed[key]
            is_large, note = notes and before.st_size >= _REMEMBERED_BYTES, _note_of(file, before)
            digest = _noted(note) if is_large else None
            if digest is not None:
                _hashed[key] = digest
                return digest
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            after = os.fstat(stream.fileno())
    except OSError as error:
        raise InputError(f"cannot read '{file}' to hash it: {error.strerror}") from None
    if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
        if time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > _SETTLED_NS:
            _hashed[key] = digest
        if is_large:
            with contextlib.suppress(OSError):  # a home that cannot be written to costs time, nothing else
                _write_whole(note, digest + "\n")
    return digest


def write_sums(folder: Path) -> None:
    """Writes the digest of every file in ``folder`` and below into its `SUMS_FILE`."""
    files = (file for file in folder.rglob("*") if file.is_file() and file != folder / SUMS_FILE)
    _write_sums(folder, {file.relative_to(folder).as_posix(): sha256_of(file) for file in files})


def renew_sum(file: Path) -> None:
    """Notes the digest of a file that was written anew into an export that is there already."""
    for folder in file.absolute().parents[:2]:
        sums, name = summed_files(folder), file.absolute().relative_to(folder).as_posix()
        if name in sums:
            _write_sums(folder, sums | {name: sha256_of(file)})


def _write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    _write_whole(folder / SUMS_FILE, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))


def summed_files(folder: Path) -> dict[str, str]:
    """Digests by the path within ``folder``, from its `SUMS_FILE`; none where there is no such file."""
    try:
        lines = (folder / SUMS_FILE).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    parts = [line.partition(" ") for line in lines]
    return {name.removeprefix(" ").removeprefix("*"): digest for digest, _, name in parts if name}


def check_sum(file: Path) -> None:
    """Compares a file with its digest, where the folder it is in (or the one above) says what that is.

    Raises:
        InputError: if they differ.
    """
    for folder in file.absolute().parents[:2]:
        wanted = summed_files(folder).get(file.absolute().relative_to(folder).as_posix())
        if wanted is None:
            continue
        if sha256_of(file) != wanted:
            raise InputError(
                f"weights file '{file}' is damaged or was changed: its SHA-256 is not the one in "
                f"'{folder / SUMS_FILE}'; write it anew"
            )
        return


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over names, dtypes, shapes and bytes: the identity of weights wherever they came from."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # bytes as they are, without a copy; NumPy has no bfloat16
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _noted(note: Path) -> str | None:
    """The digest that an earlier process has remembered, if any."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        known = note.read_text().strip()
        if len(known) == 64:
            return known
    return None


def sha256_of_facts(facts: Mapping[str, object]) -> str:
    """Hex SHA-256 over plain values, in any order: the identity of what has no weights."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _note_of(file: Path, stat: os.stat_result) -> Path:
    """Where the digest of ``file``, as it is now, is or would be remembered."""
    key = f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "avsync" / "sha256" / hashlib.sha256(key.encode()).hexdigest()


def _write_whole(file: Path, text: str) -> None:
    """Writes under a name of its own, then renames: readers and other writers never see a part."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # not by `tempfile`, whose files are for their owner alone
    partial = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        partial.write_text(text)
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
