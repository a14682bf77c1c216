"""BigVGAN in both flavours: diffusers' ``MMAudioVocoder``, and with the bias and tanh that BigVGAN v1 ends in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


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
        vocoder.conv_post.bias = nn.Parameter(torch.zeros(1))
    if final_tanh:  # the clipping that follows then changes nothing
        vocoder.conv_post.register_forward_hook(_tanh)
    return vocoder


def _tanh(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    del module, inputs
    return output.tanh()
