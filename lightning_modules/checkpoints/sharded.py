"""Checkpoints as folders: every process writes and reads only its own shards, in PyTorch's distributed format.

The folder holds all tensors of the model and the optimizers under flat names (``state_dict.<parameter>``,
``optimizer.<optimizer>.<parameter index>.<name>``) and everything else of the checkpoint in ``meta.pt``, with the
digests of all other files. ``meta.pt`` itself is a zip file, which has checksums of its own.
"""

from __future__ import annotations

import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from components.errors import InputError
from components.weights.identity import sha256_of
from components.weights.whole_file import sync_stream

if TYPE_CHECKING:
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import Metadata

META_FILE = "meta.pt"
_INDEX_FILE = ".metadata"
_INDEX_CLASSES = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"Path", "PosixPath", "WindowsPath"},
}
"""All that PyTorch's own index of a folder names, beside shapes and dtypes."""
_MODEL, _OPTIMIZER = "state_dict", "optimizer"
_SUMS = "sha256_of_files"

T = TypeVar("T")

_UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError, TypeError, IndexError)

Template = Callable[[str, torch.Size, torch.dtype], Tensor | None]
"""Where the tensor of a name, shape and dtype is to be read to; None leaves it unread."""


def is_sharded_checkpoint(path: Path) -> bool:
    """Whether ``path`` is a folder that `write_shards` has written."""
    return path.is_dir() and (path / META_FILE).is_file()


def write_shards(checkpoint: Mapping[str, Any], folder: Path, is_global_zero: bool) -> None:
    """Write this rank's part of ``checkpoint``; every rank has to call it with the same, existing folder."""
    rest = write_tensors(checkpoint, folder)
    if is_global_zero:
        write_rest(rest, folder)


def write_tensors(
    checkpoint: Mapping[str, Any], folder: Path, group: dist.ProcessGroup | None = None
) -> dict[str, Any]:
    """Write this rank's shards; every rank has to call it with the same, existing folder.

    Args:
        checkpoint: as Lightning makes it; tensors may be shards.
        folder: where to.
        group: through which the ranks agree, of a backend that knows the CPU; None for the default one.

    Returns:
        What is left for one rank to write with `write_rest`, and makes a checkpoint of the folder.
    """
    from torch.distributed.checkpoint.state_dict_saver import save  # a quarter of a second no other command needs

    rest = {key: value for key, value in checkpoint.items() if key not in ("state_dict", "optimizer_states")}
    tensors = {f"{_MODEL}.{name}": value for name, value in checkpoint["state_dict"].items()}
    if "optimizer_states" in checkpoint:
        rest["param_groups"] = [state["param_groups"] for state in checkpoint["optimizer_states"]]
        rest["optimizer_values"] = []
        for i, state in enumerate(checkpoint["optimizer_states"]):
            rest["optimizer_values"].append({})
            for index, values in state["state"].items():
                # tensors are written by all ranks, plain values (steps) once, with the rest
                for name, value in values.items():
                    if isinstance(value, Tensor):
                        tensors[f"{_OPTIMIZER}.{i}.{index}.{name}"] = value
                    else:
                        rest["optimizer_values"][i][f"{index}.{name}"] = value
    # collective: every rank writes its own shards
    save(tensors, checkpoint_id=folder, process_group=group)
    return {**rest, _SUMS: _sums(folder, group)}


def write_rest(rest: Mapping[str, Any], folder: Path) -> None:
    """Write what is no tensor, last: without it the folder is no checkpoint yet."""
    with (folder / META_FILE).open("wb") as stream:
        torch.save(rest, stream)
        sync_stream(stream)


def read_shards(folder: Path, template: Template, distributed: bool = True) -> dict[str, Any]:
    """The checkpoint in ``folder`` with the tensors that ``template`` wants.

    Tensors it does not want have their names and shapes only (they are on the meta device).

    Args:
        folder: written by `write_shards`.
        template: called with the flat name; gives the tensor to read into, of the stored shape.
        distributed: whether all ranks read together; each then compares a share of the files with their digests.

    Raises:
        InputError: if the folder is damaged (on every rank alike) or holds code.
    """
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    checkpoint, index = read_table(folder)
    check_files(folder, checkpoint, distributed)
    tensors: dict[str, Tensor] = {}
    unread: dict[str, Tensor] = {}
    for name, kept in index.state_dict_metadata.items():
        if not isinstance(kept, TensorStorageMetadata):
            continue
        # read straight into the shards it is for, so that no rank holds the whole
        place = template(name, kept.size, kept.properties.dtype)
        if place is None:
            unread[name] = torch.empty(kept.size, dtype=kept.properties.dtype, device="meta")
        else:
            tensors[name] = place
    load(tensors, storage_reader=_reader(folder, index), no_dist=not distributed)
    return _unflattened(checkpoint, {**tensors, **unread})


def read_table(folder: Path) -> tuple[dict[str, Any], Metadata]:
    """Everything in ``folder`` but its tensors, and the index that says where these are; nothing in it is ever run.

    Raises:
        InputError: if either file is damaged or names anything that is neither data nor a tensor's place.
    """
    try:
        rest: dict[str, Any] = torch.load(folder / META_FILE, map_location="cpu", weights_only=True)
        with zipfile.ZipFile(folder / META_FILE) as records:
            lost = records.testzip()
        with (folder / _INDEX_FILE).open("rb") as stream:
            index: Metadata = _IndexUnpickler(stream).load()
        places = [Path(place.relative_path) for place in (index.storage_data or {}).values()]
        stray = [place for place in places if place != Path(place.name) or not (folder / place).is_file()]
    except pickle.UnpicklingError as error:
        code = code_in(error)
        told = f"holds code ({code}), which is not run; give one that avsync fit has written" if code else None
        raise InputError(f"checkpoint '{folder}' {told or 'is damaged; give another one'}") from None
    except (*_UNREADABLE, zipfile.BadZipFile) as error:
        raise InputError(f"checkpoint '{folder}' is damaged ({error}); give another one") from None
    if lost:
        raise InputError(f"checkpoint '{folder}' is damaged (the checksum of {lost} is wrong); give another one")
    if stray:
        raise InputError(f"checkpoint '{folder}' is damaged (its part {stray[0]} is not there); give another one")
    return rest, index


def check_files(folder: Path, rest: dict[str, Any], together: bool = False) -> None:
    """Compares the files of a checkpoint with the digests that were noted when they were written.

    Args:
        folder: written by `write_shards`; by an earlier version it has no digests, and nothing is compared.
        rest: what `read_table` has found in it; loses the digests.
        together: every rank has called this and reads a share of the files; all learn what any has found.

    Raises:
        InputError: naming a file that is not as it was written.
    """
    sums: dict[str, str] = rest.pop(_SUMS, {})
    rank, world = _place() if together else (0, 1)
    mine = sorted(sums)[rank::world]
    lost = [name for name in mine if sha256_of(folder / name, notes=False) != sums[name]]
    for found in of_all_ranks(lost) if together else [lost]:
        if found:
            raise InputError(
                f"checkpoint '{folder}' is damaged (its part {found[0]} is not as it was written); give another one"
            )


def _sums(folder: Path, group: dist.ProcessGroup | None) -> dict[str, str]:
    """Digests of all files of a folder that was just written: every rank reads back its own (collective)."""
    rank, _ = _place()
    # PyTorch's names: the rank, and a number of the file
    own = [*folder.glob(f"__{rank}_*"), *([folder / _INDEX_FILE] if rank == 0 else [])]
    found: dict[str, str] | OSError
    try:
        found = {file.name: sha256_of(file, notes=False) for file in own}
    except OSError as error:  # raised by all ranks: the others would wait for this one
        found = error
    sums: dict[str, str] = {}
    for part in of_all_ranks(found, group):
        if isinstance(part, OSError):
            raise part
        sums |= part
    return sums


def _place() -> tuple[int, int]:
    """Rank and number of ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def of_all_ranks(value: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """Every rank's value, on every rank (collective)."""
    _, world = _place()
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    dist.all_gather_object(values, value, group)
    return values


class _IndexUnpickler(pickle.Unpickler):
    """Reads PyTorch's index, which is a pickle, and refuses every name that does not belong there."""

    def find_class(self, module: str, name: str) -> Any:
        """The class, if an index may name it."""
        own = name in _INDEX_CLASSES.get(module, ())
        if own or (module == "torch" and (name == "Size" or isinstance(getattr(torch, name, None), torch.dtype))):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not allowed")


def code_in(error: pickle.UnpicklingError) -> str | None:
    """The first Python object a pickle names that is neither tensor nor plain type."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return found[1] if found else None


def _reader(folder: Path, index: Metadata) -> FileSystemReader:
    """PyTorch's reader, with the index that has been looked through instead of the file's."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
            if index.storage_meta is not None:
                index.storage_meta.load_id = self.load_id
            return index

    return Reader(folder)


def read_whole(folder: Path) -> dict[str, Any]:
    """The checkpoint in ``folder`` with whole tensors, as a single file would hold it; for one process."""
    return read_shards(folder, lambda _, size, dtype: torch.empty(size, dtype=dtype), distributed=False)


def _unflattened(checkpoint: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    state_dict: dict[str, Tensor] = {}
    groups = checkpoint.pop("param_groups", None)
    values = checkpoint.pop("optimizer_values", [])
    states: list[dict[int, dict[str, Any]]] = [{} for _ in groups or ()]
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == _MODEL:
            state_dict[rest] = tensor
        else:
            # parameter index before the name, which may have dots
            i, index, key = rest.split(".", 2)
            states[int(i)].setdefault(int(index), {})[key] = tensor
    for state, plain in zip(states, values, strict=True):
        for name, value in plain.items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
    checkpoint["state_dict"] = state_dict
    if groups is not None:
        checkpoint["optimizer_states"] = [
            {"state": state, "param_groups": group} for state, group in zip(states, groups, strict=True)
        ]
    return checkpoint


def remove(path: Path) -> None:
    """Remove a checkpoint, file or folder; a folder under a dot-name first, so that nobody takes the rest for whole."""
    if path.is_dir() and not path.is_symlink():
        # under a dot-name first: what is left after a kill is taken for no checkpoint
        dead = path.with_name(f".{path.name}.dead")
        shutil.rmtree(dead, ignore_errors=True)
        path.rename(dead)
        shutil.rmtree(dead)
    else:
        path.unlink(missing_ok=True)
