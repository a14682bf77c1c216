"""Checkpoints as folders: every process writes and reads only its own shards, in PyTorch's distributed format.

The folder holds all tensors of the model and the optimizers under flat names (``state_dict.<parameter>``,
``optimizer.<optimizer>.<parameter index>.<name>``) and everything else of the checkpoint in ``meta.pt``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.errors import InputError

META_FILE = "meta.pt"
_MODEL, _OPTIMIZER = "state_dict", "optimizer"

Template = Callable[[str, torch.Size, torch.dtype], Tensor | None]
"""Where the tensor of a name, shape and dtype is to be read to; None leaves it unread."""


def is_sharded_checkpoint(path: Path) -> bool:
    """Whether ``path`` is a folder that `write_shards` has written."""
    return path.is_dir() and (path / META_FILE).is_file()


def write_shards(checkpoint: Mapping[str, Any], folder: Path, is_global_zero: bool) -> None:
    """Write this rank's part of ``checkpoint``; every rank has to call it with the same, existing folder."""
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
    save(tensors, checkpoint_id=folder)
    # last: without it the folder is no checkpoint yet
    if is_global_zero:
        with (folder / META_FILE).open("wb") as stream:
            torch.save(rest, stream)
            stream.flush()
            os.fsync(stream.fileno())


def read_shards(folder: Path, template: Template, distributed: bool = True) -> dict[str, Any]:
    """The checkpoint in ``folder`` with the tensors that ``template`` wants.

    Tensors it does not want have their names and shapes only (they are on the meta device).

    Args:
        folder: written by `write_shards`.
        template: called with the flat name; gives the tensor to read into, of the stored shape.
        distributed: whether all ranks read together.

    Raises:
        InputError: if the folder is damaged.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        stored = FileSystemReader(folder).read_metadata().state_dict_metadata
        checkpoint: dict[str, Any] = torch.load(folder / META_FILE, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError) as error:
        raise InputError(f"checkpoint '{folder}' is damaged ({error}); give another one") from None
    tensors: dict[str, Tensor] = {}
    unread: dict[str, Tensor] = {}
    for name, kept in stored.items():
        if not isinstance(kept, TensorStorageMetadata):
            continue
        # read straight into the shards it is for, so that no rank holds the whole
        place = template(name, kept.size, kept.properties.dtype)
        if place is None:
            unread[name] = torch.empty(kept.size, dtype=kept.properties.dtype, device="meta")
        else:
            tensors[name] = place
    load(tensors, checkpoint_id=folder, no_dist=not distributed)
    return _unflattened(checkpoint, {**tensors, **unread})


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
    if path.is_dir():
        # under a dot-name first: what is left after a kill is taken for no checkpoint
        dead = path.with_name(f".{path.name}.dead")
        shutil.rmtree(dead, ignore_errors=True)
        path.rename(dead)
        shutil.rmtree(dead)
    else:
        path.unlink(missing_ok=True)
