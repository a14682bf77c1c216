"""Networks that come as one TorchScript file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from components.errors import InputError
from components.metrics.video.weight_file import needed_file
from components.weights.digests import Sha256
from components.weights.identity import record_identity
from components.weights.pretrained import builds_shapes_only


def load_torchscript(name: str | Path, sha256: Sha256, owner: str, fix: str) -> nn.Module:
    """The frozen network of a TorchScript file, on the CPU.

    Such a file holds a program. TorchScript runs it without Python: it can compute with tensors, but neither import nor
    open anything. Give ``sha256`` all the same where a digest is published.

    Args:
        name: the file (see `find_file`).
        sha256: digest that it must have.
        owner: class and argument, for errors.
        fix: where the file is to be had.

    Raises:
        InputError: if the file is missing, has another digest or is no TorchScript.
    """
    file = needed_file(name, sha256, owner, fix)
    if builds_shapes_only():
        return nn.Identity()  # what a script computes is not known without it
    try:
        net: nn.Module = torch.jit.load(str(file), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:150]
        raise InputError(f"{owner}: '{file}' is not a readable TorchScript file ({reason}); {fix}") from None
    record_identity(net, str(name), [file])
    for weight in net.parameters():  # a script has no `requires_grad_` of its own
        weight.requires_grad_(False)
    return net.eval()
