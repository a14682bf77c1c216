"""Weight files of every kind as named tensors that are read when they are used.

A tensor is a private mapping of its piece of the file: nothing is copied until it is written to, and writing to it
changes neither the file nor what others see of it.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.errors import InputError
from components.weights.identity import check_sum, renew_sum
from components.weights.whole_file import granted_mode

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""Names of weight files without their ending, as diffusers, transformers and older releases spell them."""

_KINDS = (".safetensors", ".bin")
_MAX_NAMED = 8


@dataclass(frozen=True)
class Weights:
    """Named tensors and where they came from.

    Attributes:
        tensors: on the CPU, each in a storage of its own, in the file's dtype.
        files: the files that hold them.
        source: what errors call them: the file, or the index of several.
    """

    tensors: dict[str, Tensor]
    files: tuple[Path, ...]
    source: Path


def open_weights(folder: Path) -> Weights:
    """The weights in ``folder``: one file or several with an index, safetensors before ``.bin`` where both exist.

    Raises:
        InputError: if there are none, or a file is absent, damaged or holds anything but tensors.
    """
    for kind in _KINDS:
        for stem in STEMS:
            file = folder / f"{stem}{kind}"
            if file.is_file():
                return open_weights_file(file)
            index = folder / f"{stem}{kind}.index.json"
            if index.is_file():
                return _open_shards(index)
    try:
        held = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot list '{folder}' ({error.strerror}); give a folder with weights") from None
    holds = f"only {', '.join(held[:_MAX_NAMED])}{' ...' if len(held) > _MAX_NAMED else ''}" if held else "nothing"
    raise InputError(
        f"weights file '{folder / STEMS[0]}.safetensors' does not exist, nor one named {', '.join(STEMS)} that ends in "
        f".safetensors or .bin: the folder holds {holds}; download it whole"
    )


def open_weights_file(file: str | Path) -> Weights:
    """The tensors of one ``.safetensors`` file, or of one pickle that ``torch.load(weights_only=True)`` accepts.

    Raises:
        InputError: if the file is absent, damaged (also by its checksum, where it has one) or holds anything but
            tensors.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(f"weights file '{file}' does not exist")
    check_sum(file)
    tensors = _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)
    return Weights(tensors, (file,), file)


def save_weights(file: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Writes a ``.safetensors`` file under another name and renames it, so that a part is never taken for the whole.

    The file may be the one ``tensors`` are mapped from.

    Args:
        file: where to; its folder exists.
        tensors: on any device.
        dtype: what floating-point tensors are written as; None leaves each as it is.
    """
    held = {
        key: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
        for key, tensor in tensors.items()
    }
    partial = file.with_name(f".{file.name}.part")
    try:
        save_file(held, partial)
        partial.chmod(granted_mode(file.parent))
        partial.replace(file)
        renew_sum(file)
    finally:
        partial.unlink(missing_ok=True)


def _open_shards(index: Path) -> Weights:
    """All files an index names; each must be there and hold what the index says."""
    try:
        places = json.loads(index.read_text())["weight_map"]
        shards = sorted({str(shard) for shard in places.values()})
    except OSError as error:
        raise InputError(f"cannot read '{index}' ({error.strerror}); download it anew") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"'{index}' is no index of weight files (an object with 'weight_map'); download it anew"
        ) from None
    if not shards:
        raise InputError(f"'{index}' names no weight file; download it anew")
    # a name with slashes could reach outside of the folder
    for shard in shards:
        if Path(shard).name != shard:
            raise InputError(f"'{index}' names the weight file '{shard}', which is not beside it; download it anew")
    absent = [shard for shard in shards if not (index.parent / shard).is_file()]
    if absent:
        raise InputError(
            f"'{index}' names {len(absent)} weight file(s) that do not exist beside it: "
            f"{', '.join(absent[:_MAX_NAMED])}; download them"
        )
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        held = open_weights_file(index.parent / shard).tensors
        lacking = sorted(key for key, place in places.items() if place == shard and key not in held)
        if lacking:
            raise InputError(
                f"weights file '{index.parent / shard}' lacks {len(lacking)} tensor(s) its index places there, first "
                f"{lacking[0]}; download file and index anew"
            )
        tensors |= held
    return Weights(tensors, tuple(index.parent / shard for shard in shards), index)


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)  # maps the file; each tensor is its own storage within the mapping
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights file '{file}' is not a readable safetensors file ({error}); write it anew") from None


def _pickled(file: Path) -> dict[str, Tensor]:
    try:
        content = _unpickle(file)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it holds code ({code[1]})" if code else "it is damaged or holds code"
        raise InputError(
            f"weights file '{file}' is not a readable pickle of tensors: {what}, which is never run; convert it to "
            "safetensors where you trust it, or download it anew"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        reason = re.split(r"\n|\. ", str(error))[0] or "it is empty"
        raise InputError(
            f"weights file '{file}' is not a readable pickle of tensors ({reason}); download it anew"
        ) from None
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise InputError(
            f"weights file '{file}' holds a {type(content).__name__} that does not fit: named tensors and nothing else "
            "are needed; save the model's state_dict"
        )
    return separate(content.items())


def _unpickle(file: Path) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        # only zip files can be mapped, pickles from before torch 1.6 cannot
        if "mmap can only be used" not in str(error):
            raise
    with warnings.catch_warnings():  # what the sentence about a file that cannot be read says better
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        return torch.load(file, map_location="cpu", weights_only=True)  # a format from before 2020, without mapping


def separate(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors that can be written to one by one: a pickle may hold views, of each other or with gaps."""
    taken: set[int] = set()
    separate = {}
    for name, tensor in named:
        tensor = tensor.detach()
        # a view of another tensor, a slice of a larger one or a transposed one: safetensors and in-place writes need
        # their own
        storage = tensor.untyped_storage()
        if storage.data_ptr() in taken or storage.nbytes() != tensor.nbytes or not tensor.is_contiguous():
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        elif tensor.nbytes:
            taken.add(storage.data_ptr())
        separate[name] = tensor
    return separate
