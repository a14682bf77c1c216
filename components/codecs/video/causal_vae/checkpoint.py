"""The public ``causal_video_vae`` folder, read and written: ``config.json`` and the weights beside it."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from components.codecs.video.causal_vae.model import CausalVideoVAE
from components.codecs.video.causal_vae.normalisation import LatentNormalisation
from components.errors import InputError
from components.weights.file import STEMS, save_weights
from components.weights.fit import Renames, Shapes, contradicting, num_numbered
from components.weights.identity import renew_sum
from components.weights.named_files import names_files
from components.weights.pretrained import CONFIG_FILE, Sha256, dtype_named, full_name, load_module, pretrained_config
from components.weights.whole_file import whole_file

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

_CLASS_NAME = "CausalVideoVAE"
_NORMALISATION = "latent_normalisation"
"""Our entry of ``config.json``: the constants of `LatentNormalisation`. The public folders have none."""

RENAMES: Renames = (
    (".attentions.0.query.", ".attentions.0.to_q."),
    (".attentions.0.key.", ".attentions.0.to_k."),
    (".attentions.0.value.", ".attentions.0.to_v."),
    (".attentions.0.proj_attn.", ".attentions.0.to_out.0."),
)
"""The middle blocks' attention as diffusers spelled it before 2023, which some conversions still do."""


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
        # lists hold one entry per block, all of which must be the same
        if any(value != wanted for value in (found if isinstance(found, list) else [found])):
            raise InputError(f"{source}: {key} is {found!r}, but only {wanted!r} is supported; use that value")
    known = inspect.signature(CausalVideoVAE).parameters
    arguments: dict[str, object] = {key: value for key, value in config.items() if key in known}
    try:
        return CausalVideoVAE(**arguments)  # type: ignore[arg-type]  # the values come from a file
    except (TypeError, ValueError) as error:
        raise InputError(f"{source} does not describe a causal video VAE ({error}); correct it") from None


@names_files(folder="subfolder")
def load_vae(
    folder: str | Path,
    subfolder: str | None = None,
    dtype: str | None = "float32",
    sha256: Sha256 = None,
) -> CausalVideoVAE:
    """Loads the network: ``config.json`` and the weights beside it, ``.safetensors`` or ``.bin``, whole or in parts.

    Under ``with torch.device("meta")`` only shapes are built and no weights are read; the public VAE then need not be
    there at all.

    Args:
        folder: folder on this disk (relative paths are also looked for in the installed package) or a hub
            repository, e.g. ``hf://rain1011/pyramid-flow-miniflux``.
        subfolder: folder within it, e.g. ``causal_video_vae``.
        dtype: what the network computes in: ``float32``, ``bfloat16`` or ``float16``; None keeps the file's.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if the folder or a file is missing or damaged, holds another model, or the weights do not fit the
            config.
    """
    path, config = pretrained_config(folder, subfolder, sha256)
    file = path / CONFIG_FILE
    name = config.get("_class_name", _CLASS_NAME)
    if name != _CLASS_NAME:
        raise InputError(
            f"{file} names the class {name!r}, but {_CLASS_NAME} is needed here; give the folder causal_video_vae"
        )

    def contradictions(_vae: CausalVideoVAE, shapes: Shapes) -> list[str]:
        defaults = {key: argument.default for key, argument in inspect.signature(CausalVideoVAE).parameters.items()}
        return contradicting({**defaults, **config}, vae_settings(shapes))

    return load_module(
        lambda: vae_from_config(config, str(file)),
        path,
        full_name(folder, subfolder),
        dtype_named(dtype),
        RENAMES,
        contradictions,
    )


def stored_normalisation(folder: str | Path, subfolder: str | None = None) -> LatentNormalisation | None:
    """The constants that `save_vae` wrote; None where the folder holds none, as the public ones.

    Raises:
        InputError: if the folder is missing, or its entry is damaged.
    """
    path, config = pretrained_config(folder, subfolder)
    if (found := config.get(_NORMALISATION)) is None:
        return None
    wanted = asdict(LatentNormalisation())
    sound = isinstance(found, dict) and found.keys() == wanted.keys()
    if not sound or not all(isinstance(value, int | float) and math.isfinite(value) for value in found.values()):
        raise InputError(
            f"{path / CONFIG_FILE}: {_NORMALISATION} is {found!r}, but the numbers {', '.join(wanted)} are needed; "
            "export the VAE anew"
        )
    normalisation = LatentNormalisation(**found)
    if min(normalisation.first_std, normalisation.later_std) <= 0:
        raise InputError(f"{path / CONFIG_FILE}: {_NORMALISATION} has a divisor that is not positive; export it anew")
    return normalisation


def save_vae(
    vae: CausalVideoVAE, normalisation: LatentNormalisation, folder: Path, dtype: torch.dtype | None = None
) -> None:
    """Writes ``config.json`` and ``diffusion_pytorch_model.safetensors`` for `load_vae` and `stored_normalisation`.

    Args:
        vae: the network.
        normalisation: of its latents.
        folder: where to; it is made.
        dtype: precision of the file; None keeps the weights'.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": _CLASS_NAME, **vae.config, _NORMALISATION: asdict(normalisation)}
    save_weights(folder / f"{STEMS[0]}.safetensors", vae.state_dict(), dtype)
    with whole_file(folder / CONFIG_FILE) as stream:
        stream.write((json.dumps(config, indent=2) + "\n").encode())
    renew_sum(folder / CONFIG_FILE)


def vae_settings(shapes: Shapes) -> dict[str, object]:
    """Settings of ``config.json`` that can be read off ``shapes`` (under the public keys), as far as they go."""
    found: dict[str, object] = {}
    axes = {
        "encoder_in_channels": ("encoder.conv_in.conv.weight", 1),
        "decoder_in_channels": ("decoder.conv_in.conv.weight", 1),
        "decoder_out_channels": ("decoder.conv_out.conv.weight", 0),
    }
    for setting, (key, axis) in axes.items():
        if len(shapes.get(key, ())) > axis:
            found[setting] = shapes[key][axis]
    if shape := shapes.get("encoder.conv_out.conv.weight"):
        found["encoder_out_channels"] = shape[0] // 2  # mean and log-variance
    for side, blocks, sampling, scaled in (
        ("encoder", "encoder.down_blocks", "downsamplers", "down_sample"),
        ("decoder", "decoder.up_blocks", "upsamplers", "up_sample"),
    ):
        names = [f"{blocks}.{i}" for i in range(num_numbered(shapes, blocks))]
        widths = [shapes.get(f"{name}.resnets.0.conv1.conv.weight", (0,))[0] for name in names]
        found[f"{side}_layers_per_block"] = [num_numbered(shapes, f"{name}.resnets") for name in names]
        # the decoder's blocks run from coarse to fine, its widths are stored from fine to coarse
        found[f"{side}_block_out_channels"] = widths if side == "encoder" else widths[::-1]
        for kind, prefix in (("spatial", ""), ("temporal", "temporal_")):
            found[f"{side}_{kind}_{scaled}"] = [num_numbered(shapes, f"{n}.{prefix}{sampling}") > 0 for n in names]
    return found
