"""Bringing named tensors into a module: spelling of keys, the check that all fit, and the assignment without copies."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from components.errors import InputError
from components.weights.file import Weights

Renames = Sequence[tuple[str, str]]
"""Pairs (other spelling, ours) of a piece of a key, dots included, such as ``(".query.", ".to_q.")``."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of every tensor of a file."""

PREFIXES = ("module.", "_orig_mod.", "model.", "dit.", "vae.")
"""What wrappers (data parallel, compile, training scripts) put in front of every key."""

_MAX_LISTED = 10

M = TypeVar("M", bound=nn.Module)


def respelled(found: Iterable[str], wanted: Iterable[str], renames: Renames = ()) -> dict[str, str]:
    """How each key of a file is called in the module: ``{key in the file: key}``.

    A prefix goes only if every key has it and no key of the module does; a key is renamed only if that makes it fit and
    no other key of the file already has the name.
    """
    names, goal = {key: key for key in found}, set(wanted)
    while names:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in names.values())), None)
        if prefix is None or any(key.startswith(prefix) for key in goal):
            break
        names = {key: name.removeprefix(prefix) for key, name in names.items()}
    taken = set(names.values())
    for key, name in names.items():
        other = name
        for theirs, ours in renames:
            other = other.replace(theirs, ours)
        if name not in goal and other in goal and other not in taken:
            names[key] = other
            taken.add(other)
    return names


def assign_weights(
    module: M,
    weights: Weights,
    dtype: torch.dtype | None = None,
    renames: Renames = (),
    contradictions: Callable[[M, Shapes], list[str]] | None = None,
    float32: Sequence[str] = (),
) -> None:
    """Makes the tensors of ``weights`` the parameters and buffers of ``module``, itself best built on ``meta``.

    Nothing is copied where the dtype is right already; otherwise one tensor after the other is converted. Nothing is
    assigned if anything differs. ``weights.tensors`` is empty afterwards.

    Args:
        module: takes the tensors; what it had in their place is dropped.
        weights: as opened.
        dtype: what floating-point tensors become; None leaves each as the file has it.
        renames: other spellings of the keys.
        contradictions: says what is wrong with the config the module was built from; asked if something differs.
        float32: names of modules or tensors that a ``dtype`` of less precision does not concern.

    Raises:
        InputError: one error that lists missing, unexpected and wrongly shaped keys (ten of each at most, with the
            nearest name on the other side).
        RuntimeError: if something the file does not hold was built on ``meta`` (a mistake in the module's code).
    """
    _rename(weights, module, renames)
    check_fit(module, weights, contradictions)
    assigned: dict[str, Tensor] = {}
    for key in list(weights.tensors):
        # popped, so that no more than one tensor is held twice
        tensor = weights.tensors.pop(key)
        # integer tensors (counts, indices) keep their type
        assigned[key] = tensor.to(precision_of(key, dtype, float32)) if tensor.is_floating_point() else tensor
    # ``assign``: the mapped tensors themselves become the parameters
    module.load_state_dict(assigned, strict=True, assign=True)
    # what no file holds, such as tables that are computed, was built without memory
    unset = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
    if unset:
        raise RuntimeError(f"{type(module).__name__} must compute on device='cpu' what no file holds: {unset}")


def precision_of(key: str, dtype: torch.dtype | None, float32: Sequence[str]) -> torch.dtype | None:
    """``dtype``, but float32 for a key with one of the names ``float32`` between its dots."""
    return torch.float32 if dtype is not None and not set(key.split(".")).isdisjoint(float32) else dtype


def copy_weights(module: nn.Module, weights: Weights, renames: Renames = ()) -> None:
    """Copies the tensors of ``weights`` into those of ``module``, converting to the dtype and device it has.

    Raises:
        InputError: as `assign_weights`.
    """
    _rename(weights, module, renames)
    check_fit(module, weights)
    module.load_state_dict(weights.tensors, strict=True)


def check_fit(module: M, weights: Weights, contradictions: Callable[[M, Shapes], list[str]] | None = None) -> None:
    """Refuses weights whose keys and shapes are not exactly the module's.

    Raises:
        InputError: as `assign_weights`.
    """
    wanted, found = module.state_dict(), weights.tensors
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
        shapes = {key: tuple(tensor.shape) for key, tensor in found.items()}
        settings = contradictions(module, shapes) if contradictions else []
        raise InputError(
            f"weights file '{weights.source}' does not fit this {type(module).__name__}: "
            f"{'; '.join(filter(None, (*settings, *problems)))}"
        )


def contradicting(config: Mapping[str, Any], found: Mapping[str, object]) -> list[str]:
    """Where ``config`` says something else than was ``found`` in the weights, in words."""
    return [
        f"{setting} is {config[setting]} in config.json but {value} in the weights"
        for setting, value in found.items()
        if setting in config and _plain(config[setting]) != _plain(value)
    ]


def num_numbered(shapes: Shapes, prefix: str) -> int:
    """How many modules ``prefix.0``, ``prefix.1`` ... the keys name."""
    pieces = (key.removeprefix(f"{prefix}.").partition(".")[0] for key in shapes if key.startswith(f"{prefix}."))
    return max((int(piece) + 1 for piece in pieces if piece.isdecimal()), default=0)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _rename(weights: Weights, module: nn.Module, renames: Renames) -> None:
    names = respelled(weights.tensors, module.state_dict(), renames)
    renamed = {names[key]: tensor for key, tensor in weights.tensors.items()}
    weights.tensors.clear()
    weights.tensors.update(renamed)


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
