"""diffusers models out of their folders (``config.json`` and ``diffusion_pytorch_model.safetensors``), loaded strictly.

diffusers' own ``from_pretrained`` only warns about missing weights and leaves them random.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from components.errors import InputError
from components.weights.pretrained import (
    Sha256,
    builds_shapes_only,
    find_folder,
    full_name,
    load_module,
    read_config,
    resolve_folder,
)


def load_diffusers(
    model_class: Any,
    name: str | Path,
    subfolder: str | None,
    public: Mapping[str, object],
    dtype: torch.dtype | None = None,
    sha256: Sha256 = None,
) -> Any:
    """The model of a folder.

    On the meta device only shapes are built and no weights are read; a folder that is not on this disk stands for the
    public architecture.

    Args:
        model_class: the diffusers class.
        name: the folder or hub repository (see `components.weights.pretrained.resolve_folder`).
        subfolder: where the model lies below it, or None.
        public: constructor arguments of the public release.
        dtype: what floating-point tensors become; None keeps the file's.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if a file is missing or damaged, or the weights do not fit the config.
    """
    if builds_shapes_only() and find_folder(name, subfolder) is None:
        model = model_class(**public)
        # not the model's own `to`, which warns of modules that it would keep in float32, though it names none
        return model if dtype is None else torch.nn.Module.to(model, dtype)
    folder = resolve_folder(name, subfolder, sha256=sha256)
    config = read_config(folder)
    check_class(config, model_class.__name__, folder)
    try:
        return load_module(lambda: model_class.from_config(config), folder, full_name(name, subfolder), dtype)
    # diffusers checks some arguments with bare asserts
    except (TypeError, AssertionError) as error:
        raise InputError(
            f"'{folder / 'config.json'}' does not describe a {model_class.__name__} ({error}); download it anew"
        ) from None


def check_class(config: Mapping[str, object], wanted: str, folder: Path) -> None:
    """Refuses a config that names another class than ``wanted``.

    Raises:
        InputError: if it does.
    """
    named = config.get("_class_name", wanted)
    if named != wanted:
        raise InputError(f"'{folder}' holds a {named}, but a {wanted} is needed here; give the folder of one")
