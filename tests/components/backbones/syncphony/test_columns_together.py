"""All columns of a step in one call compute what a call for each column computes, gradients included."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from components.backbones.syncphony.audio_windows import AudioTimeline
from components.backbones.syncphony.model import SyncphonyDiT
from tests.tiny_syncphony import (
    FPS,
    TEMPORAL_FACTOR,
    VARIANTS,
    audio_features,
    latents,
    model_columns,
    text_features,
    tiny_dit,
    training_columns,
)


def run(dit: SyncphonyDiT, clips: int, groups: list[slice]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Velocities, and the gradients of their mean squares, with so many calls."""
    training = training_columns(latents(clips))
    columns, sound = model_columns(training, text_features(clips)), audio_features(clips, 49 / 24)
    heard = [(sound.rows(column.rows), column.first_frame + column.target.shape[2]) for column in training]
    velocities: list[Tensor] = []
    for group in groups:
        velocities += dit(columns[group], dit.encode_prefixes(heard[group], FPS, TEMPORAL_FACTOR))
    dit.zero_grad(set_to_none=True)
    sum(velocity.square().mean() for velocity in velocities).backward()
    return velocities, {name: p.grad for name, p in dit.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("rope", ["time", "backbone"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_call_is_a_call_for_each_column(variant: str, rope: str, rows: int):
    timeline = AudioTimeline(reach_latents=1, rope=rope)
    dit = tiny_dit(variant, 0, timeline=timeline, train_embedders=True, train_head=True)
    together, gradients = run(dit, 4 * rows, [slice(None)])
    apart, wanted = run(dit, 4 * rows, [slice(place, place + 1) for place in range(4)])
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)
    assert gradients.keys() == wanted.keys() == {name for name, _ in dit.named_parameters()}
    # in the norm of all: single gradients may be nothing but rounding (keys' biases)
    error = sum(float((gradients[name] - wanted[name]).double().square().sum()) for name in wanted) ** 0.5
    size = sum(float(gradient.double().square().sum()) for gradient in wanted.values()) ** 0.5
    assert error < 2e-6 * size


class Backwards(TorchDispatchMode):
    """Which operations undo a slice or a selection by filling a whole tensor with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.filling: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(name in str(function) for name in ("slice_backward", "select_backward", "index_put")):
            self.filling.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_fill_whole_tensors_with_zeros_in_the_last_block_alone(variant: str):
    """Parts are split off: the gradient of a slice is a tensor of zeros as large as the whole.

    The last block leaves out what nobody reads: the history of four columns and, where it has text weights, their text.
    """
    dit = tiny_dit(variant, 1)
    with Backwards() as seen:
        run(dit, 8, [slice(None)])
    assert len(seen.filling) == {"miniflux": 4, "mmdit": 12}[variant]
    x = torch.ones(3, requires_grad=True)
    with Backwards() as seen:
        x[1:].sum().backward()
    assert len(seen.filling) == 1
