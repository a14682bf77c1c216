"""Finding and strictly loading pretrained weights, with errors a person can act on."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from components.errors import InputError

PACKAGE_ROOT = Path(__file__).resolve().parent.parent
"""Where the packages (and with them ``configs/weights``) are installed."""

_MAX_LISTED = 10


def resolve_folder(name: str | Path) -> Path:
    """The folder meant by ``name``: as given, else relative to where avsync is installed.

    Shipped weights such as ``configs/weights/quickstart_v2a`` are thus found from any working directory, from a
    checkout as well as from an installed wheel.

    Args:
        name: absolute path, path relative to the working directory, or path inside the package; ``~`` is expanded.

    Raises:
        InputError: if there is no such folder, naming what was looked for.
    """
    given = Path(name).expanduser()
    if given.is_dir():
        return given
    packaged = PACKAGE_ROOT / given
    if packaged.is_dir():
        return packaged
    if given.is_file():
        raise InputError(f"'{name}' is a file, but a folder with config.json and model.safetensors is needed here")
    places = f"'{given.absolute()}'" if packaged == given else f"'{given.absolute()}' and '{packaged}'"
    raise InputError(
        f"pretrained folder '{name}' was not found (looked for {places}); give an existing folder, "
        f"or one relative to the installed package such as 'configs/weights/{given.name or 'NAME'}'"
    )


def load_safetensors(module: nn.Module, file: str | Path) -> None:
    """Loads every parameter and persistent buffer of ``module`` from ``file``; nothing is loaded if anything differs.

    Tensors are converted to the dtype the module already has.

    Raises:
        InputError: one error that lists missing, unexpected and wrongly shaped keys (ten of each at most, with the
            nearest name on the other side), or says that the file is absent or damaged.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(f"weights file '{file}' does not exist")
    try:
        found = load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights file '{file}' is not a readable safetensors file ({error}); write it anew") from None
    wanted = module.state_dict()
    missing = sorted(wanted.keys() - found.keys())
    unexpected = sorted(found.keys() - wanted.keys())
    misshapen = [
        f"{key} (file {list(found[key].shape)}, model {list(wanted[key].shape)})"
        for key in sorted(wanted.keys() & found.keys())
        if found[key].shape != wanted[key].shape
    ]
    problems = [
        _listed("missing", missing, unexpected),
        _listed("unexpected", unexpected, missing),
        _listed("of another shape", misshapen, ()),
    ]
    if any(problems):
        raise InputError(
            f"weights file '{file}' does not fit this {type(module).__name__}: {'; '.join(filter(None, problems))}"
        )
    module.load_state_dict(found, strict=True)


def sha256_of(file: str | Path) -> str:
    """Hex SHA-256 of a file's bytes; scores are comparable only under equal V2A weights, so logs carry this.

    Raises:
        InputError: if the file cannot be read.
    """
    try:
        with Path(file).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read '{file}' to hash it: {error.strerror}") from None


def _listed(what: str, keys: Sequence[str], others: Iterable[str]) -> str:
    """``"2 missing: a (nearest: b), c"``, or nothing when no key is concerned."""
    if not keys:
        return ""
    pool = list(others)
    shown = [_with_nearest(key, pool) for key in keys[:_MAX_LISTED]]
    rest = f" and {len(keys) - _MAX_LISTED} more" if len(keys) > _MAX_LISTED else ""
    return f"{len(keys)} {what}: {', '.join(shown)}{rest}"


def _with_nearest(key: str, pool: list[str]) -> str:
    nearest = difflib.get_close_matches(key, pool, n=1)
    return f"{key} (nearest: {nearest[0]})" if nearest else key


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over names, dtypes, shapes and bytes: the identity of weights wherever they came from."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
