"""Parts of a model whose weights are not read until somebody needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from components.errors import InputError
from components.weights.identity import Identity, assume_identity, identity_of


class Unloaded:
    """Mixed into a part whose weights are not read: it knows its shapes, and becomes whole where they do not do.

    Built on the meta device and then without its tensors and modules. Whoever asks for one of them gets the whole part:
    all that its constructor makes, in place, so that references to it stay good.
    """

    def __getattr__(self, name: str) -> Any:
        missing = vars(self).get("_avsync_missing", ())
        if name not in missing:
            return super().__getattr__(name)  # type: ignore[misc]
        load(cast(nn.Module, self), vars(self)["_avsync_device"])
        return getattr(self, name)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """How ``to`` moves a module: notes where the part is to be."""
        vars(self)["_avsync_device"] = fn(torch.zeros(())).device
        return super()._apply(fn, recurse)  # type: ignore[misc]


def unloaded(build: Callable[[], nn.Module], name: str, identity: Identity) -> nn.Module:
    """A part that is not loaded.

    Args:
        build: makes the part.
        name: what errors call it.
        identity: of the weights it would have.
    """
    with torch.device("meta"):
        part = build()
    held = vars(part)
    missing = frozenset({*held["_parameters"], *held["_buffers"], *held["_modules"]})
    for kind in ("_parameters", "_buffers", "_modules"):
        held[kind].clear()
    whole = type(part)
    part.__class__ = type(whole.__name__, (Unloaded, whole), {"__module__": whole.__module__})
    held.update(_avsync_missing=missing, _avsync_whole=(build, name, whole), _avsync_device=torch.device("cpu"))
    assume_identity(part, identity)
    return part


def load(part: nn.Module, device: torch.device) -> None:
    """Makes a part whole if it is not, on ``device``.

    Raises:
        InputError: if its weights are not those that the cache was made with.
    """
    if not isinstance(part, Unloaded):
        return
    build, name, whole = vars(part)["_avsync_whole"]
    known, training = identity_of(part), part.training
    # validation runs in inference mode, and what is made there could never enter training
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        real = build().to(device)
    if (found := identity_of(real)).sha256 != known.sha256:
        raise InputError(
            f"{name} is {found.name} (sha256 {found.sha256[:12]}), but the clips in data.latents were encoded with "
            f"{known.name} (sha256 {known.sha256[:12]}); restore it, or prepare the clips anew"
        )
    vars(part).clear()
    part.__class__ = whole
    vars(part).update(vars(real))
    part.train(training)
