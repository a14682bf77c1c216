"""A diffusers model folder (``config.json`` and ``diffusion_pytorch_model.safetensors``), loaded strictly.

diffusers' own ``from_pretrained`` only warns about missing weights and leaves them random.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from components.errors import InputError
from components.pretrained import load_safetensors, resolve_folder

WEIGHTS = "diffusion_pytorch_model.safetensors"


def read_config(folder: Path) -> dict[str, object]:
    """The settings in ``folder``'s ``config.json``.

    Raises:
        InputError: if the file is missing or is not a JSON object.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
    except OSError as error:
        raise InputError(f"cannot read '{file}' ({error.strerror}); a model folder needs it") from None
    except ValueError as error:
        raise InputError(f"'{file}' is not valid JSON ({error}); download it anew") from None
    if not isinstance(config, dict):
        raise InputError(f"'{file}' holds a {type(config).__name__}, not an object of settings; download it anew")
    return config


def load_model(model_class: Any, folder: str | Path, subfolder: str | None, public: Mapping[str, object]) -> Any:
    """The model of a folder, on the CPU, frozen and in evaluation mode.

    On the meta device only shapes are built and no weights are read; a folder that does not exist there stands for
    the public architecture.

    Args:
        model_class: the diffusers class.
        folder: the folder, or the release folder above it (see `resolve_folder`).
        subfolder: where the model lies below ``folder``, or None.
        public: constructor arguments of the public release.

    Raises:
        InputError: if a file is missing or damaged, or the weights do not fit the config.
    """
    name = Path(folder) / subfolder if subfolder else Path(folder)
    on_meta = torch.get_default_device().type == "meta"
    try:
        path = resolve_folder(name)
    except InputError:
        if not on_meta:
            raise
        return model_class(**public).requires_grad_(False).eval()
    config = read_config(path)
    model = build_model(model_class, config, str(path / "config.json"))
    if not on_meta:
        model.to_empty(device="cpu")  # every tensor is filled below: initialising them first would be wasted
        load_safetensors(model, path / WEIGHTS)
    return model.requires_grad_(False).eval()


def build_model(model_class: Any, config: Mapping[str, object], source: str) -> Any:
    """The model a config describes, on the meta device; entries the class does not know are diffusers' own.

    Raises:
        InputError: if the config belongs to another class or does not fit this one.
    """
    named = config.get("_class_name", model_class.__name__)
    if named != model_class.__name__:
        raise InputError(
            f"'{source}' describes a {named}, but a {model_class.__name__} is needed here; give its folder"
        )
    with torch.device("meta"):
        try:
            return model_class.from_config(dict(config))
        except (TypeError, ValueError, AssertionError) as error:
            raise InputError(
                f"'{source}' does not describe a {model_class.__name__} ({error}); download it anew"
            ) from None
