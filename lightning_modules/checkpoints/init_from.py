"""Beginning a training with the weights of another one alone: step 0, fresh moments, its own data from the start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from components.errors import InputError
from components.weights.identity import Identity
from components.weights.pretrained import CONFIG_FILE, located
from lightning_modules.checkpoints.loading import with_averages
from lightning_modules.checkpoints.sharded import is_sharded_checkpoint

_MAX_NAMED = 10


def is_export(path: str) -> bool:
    """Whether ``path`` is a folder that ``avsync export`` has written, and no checkpoint."""
    folder = located(path)
    return (folder / CONFIG_FILE).is_file() and not is_sharded_checkpoint(folder)


def weights_to_begin_with(checkpoint: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """The weights below ``prefix``, without it; averages in place of the last step's where there are any."""
    weights = with_averages(checkpoint["state_dict"])
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def check_same_frozen(checkpoint: Mapping[str, Any], here: Mapping[str, Identity], named: str) -> None:
    """Weights mean what they meant only beside the same frozen parts.

    Args:
        checkpoint: says in ``frozen`` what it was trained beside.
        here: identities of the configured parts by name; one that the checkpoint does not know is passed over.
        named: the option and its value.

    Raises:
        InputError: naming the part that is another one.
    """
    for name, identity in here.items():
        recorded = checkpoint.get("frozen", {}).get(name)
        if recorded is not None and recorded["sha256"] != identity.sha256:
            raise InputError(
                f"{named} was trained with another {name}: {recorded['name']} (sha256 {recorded['sha256'][:12]}), but "
                f"this config loads {identity.name} (sha256 {identity.sha256[:12]}); use the same."
            )


def take_over(weights: Mapping[str, Tensor], held: Mapping[str, Tensor], missing: Iterable[str], named: str) -> None:
    """Copy weights into a model's tensors, all or nothing; what trains becomes float32, as a run keeps it.

    Args:
        weights: by name.
        held: the model's own parameters and buffers by the same names (``state_dict(keep_vars=True)``).
        missing: what the model needs and ``weights`` lacks.
        named: the option and its value.

    Raises:
        InputError: if names or shapes differ.
    """
    lacking, unexpected = sorted(missing), sorted(weights.keys() - held.keys())
    shapes = sorted(name for name in weights.keys() & held.keys() if weights[name].shape != held[name].shape)
    if lacking or unexpected or shapes:
        raise InputError(
            f"{named} does not fit this transformer: missing {lacking[:_MAX_NAMED]}, unexpected "
            f"{unexpected[:_MAX_NAMED]}, of another shape {shapes[:_MAX_NAMED]}; use the one it was made with."
        )
    with torch.no_grad():
        for name, value in weights.items():
            if held[name].requires_grad:
                held[name].data = held[name].data.float()  # what was trained in float32 would be rounded
            # in place: optimizer and shards do not exist yet
            held[name].copy_(value)
