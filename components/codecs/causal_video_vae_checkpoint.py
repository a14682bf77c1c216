"""Reading the public ``causal_video_vae`` folder: ``config.json`` and the weights beside it."""

from __future__ import annotations

import inspect
import json
import pickle
import textwrap
from collections.abc import Mapping
from pathlib import Path

import torch

from components.codecs.causal_video_vae import CausalVideoVAE
from components.errors import InputError
from components.pretrained import load_safetensors, resolve_folder

_FIXED: Mapping[str, object] = {
    "encoder_act_fn": "silu",
    "decoder_act_fn": "silu",
    "encoder_type": "causal_vae_conv",
    "decoder_type": "causal_vae_conv",
    "encoder_double_z": True,
    "interpolate": False,
    "add_post_quant_conv": True,
    "encoder_down_block_types": "DownEncoderBlockCausal3D",
    "decoder_up_block_types": "UpDecoderBlockCausal3D",
}
"""What the network is by construction; a config that says otherwise describes another network."""

_WEIGHTS = "diffusion_pytorch_model"
_MAX_REASON = 800


def vae_from_config(config: Mapping[str, object], source: str = "the VAE config") -> CausalVideoVAE:
    """Builds the network from the content of a public ``config.json`` (randomly initialised).

    Dropout rates, ``sample_size``, ``scaling_factor`` and ``downsample_scale`` do not enter encoding or decoding and
    are ignored, as the reference does.

    Args:
        config: entries in the reference's spelling; absent ones take the constructor's defaults (the public sizes).
        source: how error messages call the config.

    Raises:
        InputError: if an entry asks for a network that this one is not.
    """
    for key, wanted in _FIXED.items():
        found = config.get(key, wanted)
        if any(value != wanted for value in (found if isinstance(found, list) else [found])):
            raise InputError(f"{source}: {key} is {found!r}, but only {wanted!r} is supported; use that value")
    known = inspect.signature(CausalVideoVAE).parameters
    arguments: dict[str, object] = {key: value for key, value in config.items() if key in known}
    try:
        return CausalVideoVAE(**arguments)  # type: ignore[arg-type]  # the values come from a file
    except (TypeError, ValueError) as error:
        raise InputError(f"{source} does not describe a causal video VAE ({error}); correct it") from None


def load_vae(folder: str | Path) -> CausalVideoVAE:
    """Loads the network of a folder with ``config.json`` and ``diffusion_pytorch_model.safetensors`` (or ``.bin``).

    Of the two weight files the safetensors one is preferred. A ``.bin`` is unpickled with ``weights_only=True``: it
    can hold tensors and nothing that runs.

    Raises:
        InputError: if the folder or a file is missing or damaged, or the weights do not fit the config.
    """
    path = resolve_folder(folder)
    config_file = path / "config.json"
    try:
        config = json.loads(config_file.read_text())
    except OSError as error:
        raise InputError(f"cannot read '{config_file}' ({error.strerror}); a VAE folder needs it") from None
    except ValueError as error:
        raise InputError(f"'{config_file}' is not valid JSON ({error}); download it anew") from None
    if not isinstance(config, dict):
        raise InputError(
            f"'{config_file}' holds a {type(config).__name__}, not an object of settings; download it anew"
        )
    with torch.device("meta"):
        vae = vae_from_config(config, f"'{config_file}'")
    vae.to_empty(device="cpu")  # every tensor is filled below: initialising 335 M numbers first would be wasted
    safetensors, pickled = path / f"{_WEIGHTS}.safetensors", path / f"{_WEIGHTS}.bin"
    if safetensors.is_file() or not pickled.is_file():
        load_safetensors(vae, safetensors)
    else:
        _load_pickled(vae, pickled)
    return vae


def _load_pickled(vae: CausalVideoVAE, file: Path) -> None:
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"weights file '{file}' is not a readable pickle of tensors ({reason}); download it anew"
        ) from None
    try:
        vae.load_state_dict(tensors, strict=True)
    except (RuntimeError, TypeError) as error:
        reason = textwrap.shorten(str(error), _MAX_REASON)
        raise InputError(f"weights file '{file}' does not fit its config.json: {reason}") from None
