"""Backbones from folders in the public layout, whichever variant they hold."""

from __future__ import annotations

import json
from pathlib import Path

from components.backbones.miniflux import MiniFluxTransformer
from components.backbones.mmdit import PyramidMMDiT
from components.backbones.pyramid_flow import PyramidFlowTransformer
from components.errors import InputError
from components.pretrained import load_safetensors, resolve_folder

VARIANTS: dict[str, type[PyramidFlowTransformer]] = {
    variant.class_name: variant for variant in (MiniFluxTransformer, PyramidMMDiT)
}


def pretrained_backbone(folder: str) -> PyramidFlowTransformer:
    """Load the transformer in ``folder``: ``config.json`` and ``diffusion_pytorch_model.safetensors``.

    Use it in YAML as ``class_path: components.backbones.pretrained.pretrained_backbone``.

    Args:
        folder: e.g. ``pyramid-flow-miniflux/diffusion_transformer_384p``; relative paths are also looked for in the
            installed package.

    Raises:
        InputError: if the folder or a file is missing or damaged, names another model, or the weights do not fit.
    """
    path = resolve_folder(folder)
    config = _config(path)
    variant = _variant(path, config)
    try:
        model = variant.from_config(config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path / 'config.json'} describes no model ({error}): restore it from the release.") from None
    load_safetensors(model, path / "diffusion_pytorch_model.safetensors")
    return model


def _config(path: Path) -> dict[str, object]:
    file = path / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise InputError(f"{file} is missing: give a folder with config.json beside the weights.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid JSON ({error}): restore it from the model's release.") from None
    if not isinstance(config, dict):
        raise InputError(f"{file} holds {type(config).__name__}, not an object with the model's settings.")
    return config


def _variant(path: Path, config: dict[str, object]) -> type[PyramidFlowTransformer]:
    """The class ``config.json`` names; releases without a name are told apart by their rotary axes."""
    by_axes = MiniFluxTransformer if "axes_dims_rope" in config else PyramidMMDiT
    name = config.get("_class_name", by_axes.class_name)
    if name not in VARIANTS:
        raise InputError(f"{path / 'config.json'} names the class {name!r}: expected one of {sorted(VARIANTS)}.")
    return VARIANTS[str(name)]
