"""Norms of one precision are PyTorch's own; between precisions they are fused, silent, and nearer to the truth."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.backbones.rms_norm import rms_norm
from tests.tiny_harmony import inputs as harmony_inputs
from tests.tiny_harmony import tiny_harmony
from tests.tiny_syncphony import (
    VARIANTS,
    audio_features,
    column_sounds,
    generator,
    latents,
    model_columns,
    text_features,
    tiny_dit,
    training_columns,
)


def norm_and_heads() -> tuple[nn.RMSNorm, Tensor]:
    norm = nn.RMSNorm(16, eps=1e-6)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.2 * torch.randn(16, generator=generator(0)))
    return norm, torch.randn(2, 7, 3, 16, generator=generator(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_one_precision_it_is_the_module_bit_for_bit(dtype: torch.dtype):
    norm, x = norm_and_heads()
    norm, x = norm.to(dtype), x.to(dtype)
    assert torch.equal(rms_norm(norm, x), norm(x))


def test_between_precisions_it_is_silent_and_nearer_to_the_truth_than_single_operations():
    norm, x = norm_and_heads()
    x = x.bfloat16()
    exact = F.rms_norm(x.double(), (16,), norm.weight.double(), 1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mine = rms_norm(norm, x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            before = norm(x)
    assert torch.equal(mine.to(before.dtype), before), "the same but for the last rounding"
    assert (mine - exact).norm() < 1e-6 * exact.norm() < (before - exact).norm()


@pytest.mark.parametrize("variant", VARIANTS)
def test_syncphony_under_autocast_says_nothing_of_norms(variant: str):
    dit = tiny_dit(variant, 1)
    training = training_columns(latents(4))
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
        warnings.filterwarnings("error", message="Mismatch dtype")
        sounds = column_sounds(training, dit, audio_features(4, 49 / 24))
        dit(model_columns(training, text_features(4)), sounds)


def test_harmony_under_autocast_says_nothing_of_norms():
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
        warnings.filterwarnings("error", message="Mismatch dtype")
        tiny_harmony(trained=True)(**harmony_inputs())
