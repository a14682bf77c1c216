"""Weights that lie within a training checkpoint, beside counters and optimiser states."""

from __future__ import annotations

import codecs
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.errors import InputError
from components.weights.file import Weights


def open_entry(file: str | Path, entry: str) -> Weights:
    """The tensors that a ``.pt`` or ``.pth`` checkpoint holds under ``entry``; no code in it is run.

    Other entries may hold numbers, text, lists and NumPy arrays, as the states of samplers do.

    Raises:
        InputError: if the file is absent, damaged, holds code, or has no tensors under that name.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(f"weights file '{file}' does not exist")
    try:
        with torch.serialization.safe_globals(_plain_arrays()):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError, pickle.UnpicklingError) as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        said = str(error).partition("\n")[0][:200] or "it is empty"
        reason = f"it holds code, {code[1]}, which is never run" if code else said
        raise InputError(
            f"weights file '{file}' is not a readable checkpoint of tensors ({reason}); download it anew"
        ) from None
    held = content.get(entry) if isinstance(content, dict) else None
    if not isinstance(held, dict) or not held or not all(isinstance(value, Tensor) for value in held.values()):
        found = ", ".join(map(str, content))[:200] if isinstance(content, dict) else type(content).__name__
        raise InputError(
            f"weights file '{file}' has no tensors under '{entry}' (it has: {found}); give the public file"
        )
    return Weights({str(key): tensor.detach().contiguous() for key, tensor in held.items()}, (file,), file)


def _plain_arrays() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What pickles of NumPy arrays call, by today's names and by those from before NumPy 2; none of it runs code."""
    reconstruct: Any = np.zeros(0).__reduce__()[0]
    scalar: Any = np.int64(0).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")]
    return [
        np.ndarray,
        np.dtype,
        *dtypes,
        reconstruct,
        scalar,
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (scalar, "numpy.core.multiarray.scalar"),
        (codecs.encode, "_codecs.encode"),
    ]
