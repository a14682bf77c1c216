"""Optimizer state in eight or four bits (torchao's) as plain tensors in checkpoints, and on many processes.

torchao keeps a moment as a tensor subclass of codes and one scale for each block of numbers. A checkpoint holds these
under names of their own (``exp_avg.codes``, ``exp_avg.scale`` ...): it can be read without torchao, by any number of
processes, and nothing is rounded a second time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer

from components.errors import InputError

_KINDS = ("OptimState8bit", "OptimState4bit", "OptimStateFp8")
_FLOAT8 = torch.float8_e4m3fn
_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def keep_state_plain(optimizer: Optimizer) -> None:
    """Lets ``state_dict`` and ``load_state_dict`` of a torchao optimizer give and take plain tensors.

    Of a matrix whose rows cannot be dealt out evenly over the processes the moments stay in float32: torchao would
    choose for each process by itself, and the parts would not fit together.

    Args:
        optimizer: any; others are left alone.

    Raises:
        InputError: for an optimizer of bitsandbytes over sharded weights, which it cannot step.
    """
    library = type(optimizer).__module__.partition(".")[0]
    sharded = [p for group in optimizer.param_groups for p in group["params"] if isinstance(p, DTensor)]
    if library == "bitsandbytes" and sharded:
        raise InputError(
            f"model.optimizer is bitsandbytes.optim.{type(optimizer).__name__}, which cannot step weights that are "
            "sharded (FSDP2Strategy); use torchao.optim.AdamW8bit"
        )
    if library != "torchao":
        return
    amsgrad = any(group.get("amsgrad") for group in optimizer.param_groups)
    for parameter in sharded:
        if not _is_even(parameter):
            moments = {name: torch.zeros_like(parameter) for name in _MOMENTS[: 2 + amsgrad]}
            optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}
    optimizer.register_state_dict_post_hook(_given_plain)
    optimizer.register_load_state_dict_pre_hook(_taken_plain)


def state_bytes(value: object) -> int:
    """Bytes of a tensor of an optimizer's state; of single numbers none."""
    if not isinstance(value, Tensor) or not value.ndim:
        return 0
    return sum(part.numel() * part.element_size() for part in _parts(value).values())


def _local(value: Any) -> Any:
    """This process's part of what is sharded; anything else as it is."""
    return value.to_local() if isinstance(value, DTensor) else value


def _is_compressed(value: object) -> bool:
    return type(value).__name__ in _KINDS


def _parts(value: Tensor) -> dict[str, Tensor]:
    """Its tensors by name, of a compressed one; itself otherwise."""
    if not _is_compressed(value):
        return {"": value}
    names, _ = value.__tensor_flatten__()  # type: ignore[attr-defined]
    return {name: getattr(value, name) for name in names}


def _given_plain(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "state": {index: _plain(values) for index, values in state["state"].items()}}


def _taken_plain(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    taken = {index: _compressed(values, parameters[index]) for index, values in state["state"].items()}
    held = [_local(value) for values in taken.values() for value in values.values()]
    block = getattr(optimizer, "block_size", None)
    for other in {value.block_size for value in held if _is_compressed(value)} - {block}:
        raise InputError(
            f"model.optimizer.block_size is {block}, but the checkpoint's state has blocks of {other}; set it to "
            f"{other}"
        )
    return {**state, "state": taken}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a parameter without subclasses; shards stay shards."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        held = _local(value)
        if not _is_compressed(held):
            found[name] = value
            continue
        found[f"{name}.kind"] = type(held).__name__
        if hasattr(held, "signed"):
            found[f"{name}.signed"] = held.signed
        for part, tensor in _parts(held).items():
            # bytes: not every backend gathers numbers of eight bits
            numbers = tensor.view(torch.uint8) if tensor.dtype == _FLOAT8 else tensor
            is_dealt = isinstance(value, DTensor) and part != "qmap"  # a table, the same everywhere
            found[f"{name}.{part}"] = _dealt(numbers, held, value) if is_dealt else numbers
    return found


def _dealt(part: Tensor, held: Tensor, whole: DTensor) -> DTensor:
    """Codes or scales of this process as a part of all of them: even, so that sizes multiply."""
    shape = whole.shape if part.shape == held.shape else torch.Size([part.numel() * whole.numel() // held.numel()])
    stride = whole.stride() if part.shape == held.shape else (1,)
    return DTensor.from_local(part, whole.device_mesh, whole.placements, run_check=False, shape=shape, stride=stride)


def _compressed(values: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    """The state of a parameter as torchao steps it, of this process."""
    found: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    for name in (key.removesuffix(".kind") for key in values if key.endswith(".kind")):
        given = {key.removeprefix(f"{name}."): value for key, value in values.items() if key.startswith(f"{name}.")}
        found[name] = _one(given, parameter)
    return found


def _one(given: Mapping[str, Any], parameter: Tensor) -> Tensor:
    kind = _class(given["kind"])
    local: Tensor = _local(parameter)
    whole = not isinstance(given["codes"], DTensor)
    codes: Tensor = _local(given["codes"])
    if given["kind"] == "OptimStateFp8":
        codes = codes.view(_FLOAT8)
    scale = given["scale"].full_tensor() if isinstance(given["scale"], DTensor) else given["scale"]
    first, count, block = _first(parameter), local.numel(), parameter.numel() // scale.numel()
    per_code = 2 if given["kind"] == "OptimState4bit" else 1
    if whole and isinstance(parameter, DTensor):
        codes = codes.flatten()[first // per_code : (first + count + per_code - 1) // per_code]
    fits = not isinstance(parameter, DTensor) or (_is_even(parameter) and count % block == 0)
    if not fits:
        # blocks that span two processes: the values themselves, in float32
        return _sharded(_values(codes, scale, given, first, count, block).view(local.shape), parameter)
    codes = codes.flatten() if per_code == 2 else codes.view(local.shape)
    scale = scale[first // block : (first + count) // block]
    tensors = {"codes": codes, "scale": scale, **({"qmap": given["qmap"]} if "qmap" in given else {})}
    about = [given["signed"]] if "signed" in given else []
    about += [local.shape] if per_code == 2 else []
    tensors = {part: tensor.to(local.device) for part, tensor in tensors.items()}
    return _sharded(kind.__tensor_unflatten__(tensors, [*about, parameter.dtype]), parameter)


def _values(codes: Tensor, scale: Tensor, given: Mapping[str, Any], first: int, count: int, block: int) -> Tensor:
    """Numbers ``[count]`` of a part that begins at number ``first`` of the whole."""
    codes = codes.flatten()
    if given["kind"] == "OptimState4bit":
        codes = torch.stack([codes >> 4, codes & 15], dim=-1).flatten()[first % 2 :][:count]
    numbers = given["qmap"].to(codes.device)[codes.long()] if "qmap" in given else codes.float()
    blocks = torch.arange(first, first + count, device=codes.device) // block
    return numbers * scale.to(codes.device)[blocks]


def _sharded(part: Tensor, parameter: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor):
        return part
    return DTensor.from_local(
        part,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def _is_even(parameter: DTensor) -> bool:
    """Whether all processes have as many rows."""
    return all(
        place.dim == 0 and parameter.shape[0] % parameter.device_mesh.size(i) == 0
        for i, place in enumerate(parameter.placements)
        if isinstance(place, Shard)
    )


def _first(parameter: Tensor) -> int:
    """The number of the whole at which this process's part begins."""
    if not isinstance(parameter, DTensor):
        return 0
    rows = 0
    for i, place in enumerate(parameter.placements):
        if isinstance(place, Shard):
            each = math.ceil(parameter.shape[0] / parameter.device_mesh.size(i))
            rows = min(each * parameter.device_mesh.get_local_rank(i), parameter.shape[0])
    return rows * math.prod(parameter.shape[1:])


def _class(name: str) -> Any:
    if name not in _KINDS:
        raise InputError(f"the checkpoint's optimizer state is of kind {name!r}; give one that avsync has written")
    import torchao.optim as library  # registers its tensors
    from torchao.optim import subclass_4bit, subclass_8bit, subclass_fp8

    del library
    places = {"OptimState8bit": subclass_8bit, "OptimState4bit": subclass_4bit, "OptimStateFp8": subclass_fp8}
    return getattr(places[name], name)
