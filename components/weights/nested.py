"""Weights inside a training checkpoint, beside what else training kept there."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from components.errors import InputError
from components.weights.file import Weights, open_weights_file, separate
from components.weights.identity import check_sum


class _Unread:
    """Stands in for every object of a checkpoint that is no tensor: takes whatever it is built from, and is nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> _Unread:
        del args, kwargs
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        del args, kwargs

    def __setstate__(self, state: object) -> None:
        del state


def open_nested_weights(file: str | Path, within: str) -> Weights:
    """The tensors of a pickle: all it holds, or those under ``within`` of a training checkpoint.

    A training checkpoint may also hold objects of classes (its settings, its metrics). They are neither imported nor
    run: ``torch.load(weights_only=True)`` reads the file, and an empty object takes the place of each.

    Args:
        file: written by ``torch.save``.
        within: key of the weights, such as ``model`` or ``state_dict``.

    Raises:
        InputError: if the file is absent or damaged (also by its checksum, where it has one), or holds no named
            tensors there.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(f"weights file '{file}' does not exist")
    # formats from before torch 1.6 are read as named tensors alone
    held = _unpickle(file) if zipfile.is_zipfile(file) else None
    if not isinstance(held, dict) or within not in held:
        return open_weights_file(file)
    check_sum(file)
    tensors = held[within]
    if not isinstance(tensors, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors.items()
    ):
        raise InputError(
            f"checkpoint '{file}' holds something else than named tensors under '{within}'; give the checkpoint that "
            "training wrote, or the model's state_dict"
        )
    return Weights(separate(tensors.items()), (file,), file)


def _unpickle(file: Path) -> object:
    """What the file holds, with `_Unread` for what is no plain value."""
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        with torch.serialization.safe_globals([(_Unread, name) for name in unknown]):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"checkpoint '{file}' is damaged or holds objects that cannot be passed over, and their code is never run; "
            "save the model's state_dict alone where you trust it, or download the file anew"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        reason = re.split(r"\n|\. ", str(error))[0] or "it is empty"
        raise InputError(f"checkpoint '{file}' cannot be read ({reason}); download it anew") from None
