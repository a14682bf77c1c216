"""Reading MMAudio's VAE and BigVGAN vocoders as their publishers store them.

Known layouts: diffusers folders (``MMAudioVAE``, ``MMAudioVocoder``), MMAudio's ``v1-16.pth`` and ``v1-44.pth``, the
16 kHz vocoder's ``best_netG.pt`` and NVIDIA's BigVGAN folders (``config.json`` and ``bigvgan_generator.pt``).

BigVGAN in both flavours: diffusers' ``MMAudioVocoder``, and with the bias and tanh that BigVGAN v1 ends in.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from components.errors import InputError
from components.weights.diffusers_folder import check_class, load_diffusers
from components.weights.file import Weights
from components.weights.fit import assign_weights
from components.weights.identity import record_identity
from components.weights.pretrained import (
    Sha256,
    builds_shapes_only,
    find_file,
    find_folder,
    full_name,
    load_module,
    read_config,
    resolve_folder,
)


def build_vocoder(config: Mapping[str, Any], final_bias: bool, final_tanh: bool) -> Any:
    """An ``MMAudioVocoder``, randomly initialised, on the default device.

    Args:
        config: constructor arguments of diffusers' class.
        final_bias: the last convolution has a bias (BigVGAN v1).
        final_tanh: the waveform is bounded by tanh (BigVGAN v1) and not by clipping (v2).
    """
    from diffusers import MMAudioVocoder

    vocoder: Any = MMAudioVocoder(**config)
    if final_bias:
        # diffusers builds BigVGAN v2's last convolution, which has no bias
        vocoder.conv_post.bias = nn.Parameter(torch.zeros(1))
    if final_tanh:  # the clipping that follows then changes nothing
        vocoder.conv_post.register_forward_hook(_tanh)
    return vocoder


def _tanh(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    del module, inputs
    return output.tanh()


VariantName = Literal["16k", "44k"]


@dataclass(frozen=True)
class MMAudioVariant:
    """What cannot be read from the weights of one of MMAudio's two sample rates.

    Attributes:
        vae: constructor arguments of diffusers' ``MMAudioVAE``.
        vocoder: constructor arguments of diffusers' ``MMAudioVocoder``.
        log10: mels are decimal logarithms, not natural ones.
        is_bigvgan_v1: the vocoder ends in a bias and tanh.
    """

    vae: Mapping[str, Any]
    vocoder: Mapping[str, Any]
    log10: bool
    is_bigvgan_v1: bool


VARIANTS: Mapping[str, MMAudioVariant] = {
    "16k": MMAudioVariant(
        vae={
            "mel_bins": 80,
            "latent_channels": 20,
            "hidden_channels": 384,
            "sample_rate": 16_000,
            "n_fft": 1024,
            "hop_length": 256,
            "scaling_factor": 1.0,
        },
        vocoder={
            "num_mels": 80,
            "upsample_initial_channel": 1536,
            "upsample_rates": (4, 4, 2, 2, 2, 2),
            "upsample_kernel_sizes": (8, 8, 4, 4, 4, 4),
        },
        log10=True,
        is_bigvgan_v1=True,
    ),
    "44k": MMAudioVariant(
        vae={
            "mel_bins": 128,
            "latent_channels": 40,
            "hidden_channels": 512,
            "sample_rate": 44_100,
            "n_fft": 2048,
            "hop_length": 512,
            "scaling_factor": 0.417,
        },
        vocoder={
            "num_mels": 128,
            "upsample_initial_channel": 1536,
            "upsample_rates": (8, 4, 2, 2, 2, 2),
            "upsample_kernel_sizes": (16, 8, 4, 4, 4, 4),
        },
        log10=False,
        is_bigvgan_v1=False,
    ),
}
"""The public releases. ``scaling_factor`` is Kandinsky's for 44.1 kHz; MMAudio itself uses data set statistics."""

_VOCODER_SETTINGS = (
    "num_mels",
    "upsample_initial_channel",
    "upsample_rates",
    "upsample_kernel_sizes",
    "resblock_kernel_sizes",
    "resblock_dilation_sizes",
)
_BIGVGAN_WEIGHTS = "bigvgan_generator.pt"


def load_vae(name: str | Path, subfolder: str | None, variant: MMAudioVariant, sha256: Sha256 = None) -> Any:
    """An ``MMAudioVAE`` from a diffusers folder, or from one of MMAudio's ``.pth`` files.

    On the meta device only shapes are built, of the public architecture where there are no files.

    Raises:
        InputError: if a file is missing or damaged, or holds something else.
    """
    from diffusers import MMAudioVAE

    file = None if subfolder else find_file(name, sha256)
    if file is None:
        return load_diffusers(MMAudioVAE, name, subfolder, variant.vae, sha256=sha256)
    tensors = read_pickle(file)
    config = dict(variant.vae) | _vae_widths(tensors)
    # the weights come from the file: no second copy in memory
    with torch.device("meta"):
        vae: Any = MMAudioVAE(**config)
    if builds_shapes_only():
        return vae
    narrow: Any = MMAudioVAE(**(config | {"hidden_channels": 1, "latent_channels": 1}))  # for its mel front end alone
    found = {f"vae.{key}": _unit_weight(key, tensor) for key, tensor in tensors.items()}
    # the mel filters are not in the file; they follow from the settings alone
    found |= {f"mel_converter.{key}": tensor for key, tensor in narrow.mel_converter.state_dict().items()}
    assign_weights(vae, Weights(found, (file,), file))
    record_identity(vae, str(name), [file])
    return vae


def load_vocoder(
    name: str | Path,
    subfolder: str | None,
    variant: MMAudioVariant,
    dtype: torch.dtype | None = None,
    sha256: Sha256 = None,
) -> Any:
    """The vocoder from a diffusers folder, a BigVGAN folder or a BigVGAN file, with weight norm folded.

    On the meta device only shapes are built, of the public architecture where there are no files.

    Raises:
        InputError: if a file is missing or damaged, or holds something else.
    """
    bias = tanh = variant.is_bigvgan_v1
    file = None if subfolder else find_file(name, sha256)
    if file is None:
        if builds_shapes_only() and find_folder(name, subfolder) is None:
            return build_vocoder(variant.vocoder, bias, tanh)
        folder = resolve_folder(name, subfolder, sha256=sha256)
        config = read_config(folder)
        # BigVGAN v2's own config.json tells
        bias = bool(config.get("use_bias_at_final", bias))
        tanh = bool(config.get("use_tanh_at_final", tanh))
        settings = {key: config[key] for key in _VOCODER_SETTINGS if key in config}
        if not (folder / _BIGVGAN_WEIGHTS).is_file():
            check_class(config, "MMAudioVocoder", folder)
            return load_module(lambda: build_vocoder(settings, bias, tanh), folder, full_name(name, subfolder), dtype)
        file = folder / _BIGVGAN_WEIGHTS
        tensors = fold_weight_norm(read_pickle(file, "generator"))
    else:
        tensors = fold_weight_norm(read_pickle(file, "generator"))
        settings = dict(variant.vocoder)
        if "conv_pre.weight" in tensors:
            width, mels, _ = tensors["conv_pre.weight"].shape
            settings |= {"num_mels": mels, "upsample_initial_channel": width}
    with torch.device("meta"):
        vocoder = build_vocoder(settings, bias, tanh)
    if not builds_shapes_only():
        assign_weights(vocoder, Weights(tensors, (file,), file), dtype)
        record_identity(vocoder, full_name(name, subfolder), [file])
    return vocoder


def fold_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replaces magnitude and direction of weight norm, in PyTorch's old and new spelling, by the weight itself."""
    folded = dict(tensors)
    for magnitude, direction in (("weight_g", "weight_v"), _PARAMETRIZED):
        for key in [key for key in tensors if key.endswith(f".{magnitude}")]:
            layer = key.removesuffix(magnitude)
            if f"{layer}{direction}" in folded:
                # dimension 0: one magnitude per output channel
                weight = torch._weight_norm(folded.pop(f"{layer}{direction}"), folded.pop(key), 0)
                folded[f"{layer}weight"] = weight
    return folded


_PARAMETRIZED = ("parametrizations.weight.original0", "parametrizations.weight.original1")


def read_pickle(file: Path, key: str | None = None) -> dict[str, Tensor]:
    """Named tensors of a ``.pth`` or ``.pt`` file, those under ``key`` if it has that; nothing in it is ever run.

    Raises:
        InputError: if the file is damaged or holds anything but tensors.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"weights file '{file}' is not a readable pickle of tensors ({reason}); download it anew"
        ) from None
    if key is not None and isinstance(content, dict) and key in content:
        content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"weights file '{file}' holds something else than named tensors; download it anew")
    return content


def _unit_weight(key: str, tensor: Tensor) -> Tensor:
    """A convolution's weight as the network applies it; other tensors as they are.

    MMAudio stores weights before the normalisation of Karras et al., "Analyzing and Improving the Training Dynamics of
    Diffusion Models", equations 47 and 66: every output channel to norm 1 (up to an epsilon of 1e-4).
    """
    if not key.endswith(".weight"):
        return tensor
    rows = tensor.float().flatten(1)
    fan_in = rows.shape[1]
    norm = torch.linalg.vector_norm(rows, dim=1) / math.sqrt(fan_in)
    result: Tensor = (rows / (1e-4 + norm)[:, None] / math.sqrt(fan_in)).view_as(tensor).to(tensor.dtype)
    return result


def _vae_widths(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The widths that the shapes of a ``.pth`` file tell; none if it is not such a file."""
    first, last = tensors.get("encoder.conv_in.weight"), tensors.get("decoder.conv_in.weight")
    if first is None or last is None:
        return {}
    return {"hidden_channels": first.shape[0], "mel_bins": first.shape[1], "latent_channels": last.shape[1]}
